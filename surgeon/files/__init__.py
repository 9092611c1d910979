"""Opening what people saved, safely; saving what loads without pickle."""
