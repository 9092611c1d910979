"""The pipeline, stage by stage: asked -> traced -> proposed -> proven -> result."""
