"""The command line as people use it: what every command prints, writes, refuses, and with which exit code."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch

import surgeon
from surgeon.cli.app import app
from surgeon.cli.main import run
from surgeon.errors import BadInput
from surgeon.measure import bench
from surgeon.measure.latency import Budget
from surgeon.report import contest

torch.set_num_threads(1)

SHARED = Path(__file__).parents[2] / "shared" / "checkpoints"
MODELS = Path(__file__).parents[1] / "models"
COMMANDS = (
    "shrink",
    "inspect",
    "apply",
    "check",
    "sensitivity",
    "sparsify",
    "tune",
    "export",
    "sweep",
    "bench",
    "report",
    "device",
    "rules",
    "env",
)

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3)
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        x = self.conv2(self.bn1(self.conv1(x)).relu()).relu()
        return self.fc(x.mean((2, 3)))

class Named(Net):
    def forward(self, x, *, shift):
        return super().forward(x) + shift

named = Named

class Literal(Net):
    def forward(self, x):
        x = self.conv2(self.bn1(self.conv1(x)).relu()).relu()
        return self.fc(x.view(-1, 16, 16).mean(2))

def net():
    torch.manual_seed(0)
    return Net(), torch.randn(2, 3, 8, 8)

def literal():
    torch.manual_seed(0)
    return Literal(), torch.randn(2, 3, 8, 8)

def count(model):
    return sum(p.numel() for p in model.parameters())

def breaks(model):
    return 1 / 0
"""

HALVES = """
import torch
from torch import nn

class Split(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.side = nn.Conv2d(3, 16, 1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        a, b = self.up(x).chunk(2, 1)
        return torch.cat([a, b + self.side(b).relu()], 1)

def net():
    layers = Split(), nn.Conv2d(16, 12, 3), nn.ReLU(), nn.Conv2d(12, 5, 3)
    return nn.Sequential(*layers), torch.randn(2, 3, 8, 8)
"""

Go = Callable[..., tuple[int, str, str]]


def moved_to(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """Go to a working folder with nets.py and its weights in net.pth."""
    patch.chdir(folder)
    Path("nets.py").write_text(NETS)
    scope: dict = {}
    exec(NETS, scope)
    torch.save(scope["net"]()[0].state_dict(), "net.pth")
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with nets.py and its weights in net.pth."""
    return moved_to(tmp_path, monkeypatch)


@pytest.fixture
def go(here: Path, capsys: pytest.CaptureFixture[str]) -> Go:
    """Run a command in this process: (exit code, stdout, stderr)."""

    def go(*args: object) -> tuple[int, str, str]:
        code = run([str(arg) for arg in args])
        said = capsys.readouterr()
        return code, said.out, said.err

    return go


def hurried(patch: pytest.MonkeyPatch) -> None:
    """Timing takes a moment."""
    small = Budget(warmup_runs=1, warmup_s=0, min_runs=6, min_s=0, max_s=0.2)
    patch.setattr(bench, "Budget", lambda **_: small)
    patch.setattr(contest, "Budget", lambda **_: small)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timing that takes a moment."""
    hurried(monkeypatch)


NET = ("net.pth", "--arch", "nets.py:net")
FAST = ("--no-measure", "--no-onnx")


def files(folder: str = "net-slim") -> set[str]:
    return {file.name for file in Path(folder).iterdir()}


class TestStart:
    def python(self, code: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        return done.stdout

    @pytest.mark.parametrize(
        "args", [["--help"], ["--version"], *([c, "--help"] for c in COMMANDS)]
    )
    def test_help_imports_no_torch(self, args: list[str]) -> None:
        code = f"import sys; from surgeon.cli.main import run; run({args}); print('torch' in sys.modules)"
        assert self.python(code).splitlines()[-1] == "False"

    @pytest.mark.parametrize("command", COMMANDS)
    def test_help_shows_an_example_and_json(self, go: Go, command: str) -> None:
        code, out, _ = go(command, "--help")
        assert code == 0
        assert f"Example: surgeon {command}" in out
        assert "--json" in out

    def test_version(self, go: Go) -> None:
        assert go("--version")[:2] == (0, f"surgeon {surgeon.__version__}\n")

    def test_every_command_is_there(self) -> None:
        assert [c.callback.__name__ for c in app.registered_commands if c.callback] == list(
            COMMANDS
        )

    def test_no_arguments_show_the_help(self, go: Go) -> None:
        code, out, _ = go()
        assert code == 2
        assert "shrink" in out


class TestShrink:
    def test_writes_proves_and_measures(self, go: Go, quick: None) -> None:
        code, out, err = go("shrink", *NET, "--ratio", "0.5", "--metric", "nets.py:count")
        assert code == 0, err
        assert files() == {
            "slim.pth", "slim.safetensors", "slim.onnx", "plan.json", "report.json", "report.html",
        }  # fmt: skip
        for line in (
            "parameters",
            "FLOPs",
            "MACs",
            "peak memory",
            "latency",
            "proven: error",
            "count",
        ):
            assert line in out
        assert "trace and couple" in err
        assert "net.pth" not in out
        report = json.loads(Path("net-slim/report.json").read_text())
        assert report["check"]["proven"] is True
        assert report["measured"]["after"]["latency"]["median_s"] > 0
        assert report["metric"]["before"] == report["measured"]["before"]["params"]
        assert report["metric"]["after"] == report["measured"]["after"]["params"]
        assert report["files"]["slim.onnx"] == Path("net-slim/slim.onnx").stat().st_size
        for side in ("before", "after"):
            lines = report["measured"][side]["profile"]
            assert {"conv1", "conv2", "fc"} <= {line["module"] for line in lines}
            assert all(line["s"] >= 0 for line in lines)
        page = Path("net-slim/report.html").read_text()
        assert "parameters" in page and "Time by layer" in page
        slim = surgeon.load("net-slim/slim.pth")
        assert slim.get_parameter("conv1.weight").shape == (4, 3, 3, 3)

    def test_a_program_is_written_as_pt2(self, go: Go) -> None:
        code, out, err = go("shrink", "nets.py:literal", "--ratio", "0.5", *FAST)
        assert code == 0, err
        assert "surgery: program" in out
        assert "slim.pt2" in files("literal-slim")
        program = torch.export.load("literal-slim/slim.pt2").module()
        x = torch.randn(3, 3, 8, 8)
        assert torch.allclose(program(x), surgeon.load("literal-slim/slim.pth")(x), atol=1e-6)
        assert str(Path.cwd()).encode() not in Path("literal-slim/slim.pt2").read_bytes()

    def test_json_is_one_document(self, go: Go) -> None:
        code, out, _ = go("shrink", *NET, "--ratio", "50%", *FAST, "--json")
        assert code == 0
        report = json.loads(out)
        assert report["request"]["ratio"] == 0.5
        assert report["reached"]["channels"] == 0.5
        assert report["notes"][0] == "input 2,3,8,8: recorded with the model"

    def test_quiet_says_nothing_on_stderr(self, go: Go) -> None:
        assert go("shrink", *NET, "--ratio", "0.5", *FAST, "--quiet")[2] == ""

    def test_a_dry_run_writes_nothing(self, go: Go, here: Path) -> None:
        before = sorted(here.iterdir())
        code, out, _ = go("shrink", *NET, "--ratio", "0.5", "--dry-run", "--json")
        assert code == 0
        assert sorted(here.iterdir()) == before
        expected = json.loads(out)["expected"]
        go("shrink", *NET, "--ratio", "0.5", *FAST)
        after = json.loads(Path("net-slim/report.json").read_text())["measured"]["after"]
        assert expected["after"] == {key: after[key] for key in ("flops", "macs", "params")}

    def test_a_dry_run_of_a_plan_shows_it(self, go: Go) -> None:
        go("shrink", *NET, "--ratio", "0.5", *FAST)
        code, out, _ = go("shrink", *NET, "--plan", "net-slim/plan.json", "--dry-run")
        assert "planned here and not tried" in out
        assert code == 0
        assert "conv1" in out

    def test_options_with_underscores_are_the_same(self, go: Go) -> None:
        code, out, _ = go("shrink", *NET, "--max_flops", "0.5x", "--dry_run", "--json")
        assert code == 0
        assert json.loads(out)["request"]["max_flops"] == "0.5x"

    def test_each_option_reaches_the_request(self, go: Go) -> None:
        options = (
            "--ratio-for", "conv1=0.25", "--ratio-for", "conv2=50%", "--ignore", "fc", "--criterion", "l1",
            "--by", "filter", "--scope", "global", "--round-to", "2", "--seed", "3", "--max-params", "0.9x",
            "--cut", "mlp, width", "--equal", "mlp", "--reduce", "max", "--normalize", "gaussian",
        )  # fmt: skip
        code, out, err = go("shrink", *NET, *options, "--dry-run", "--json")
        assert code == 0, err
        request = json.loads(out)["request"]
        assert request["ratio_for"] == {"conv1": 0.25, "conv2": 0.5}
        assert (request["ignore"], request["criterion"], request["by"]) == (["fc"], "l1", "filter")
        assert (request["scope"], request["round_to"], request["seed"]) == ("global", 2, 3)
        assert request["max_params"] == "0.9x"
        assert (request["cut"], request["equal"]) == (["width", "mlp"], ["mlp"])
        assert (request["reduce"], request["normalise"]) == ("max", "gaussian")

    def test_channels_by_hand(self, go: Go) -> None:
        args = ("--remove", "conv1=0,2-3", "--remove", "conv2:in=7")
        code, _, err = go("shrink", *NET, *args, *FAST)
        assert code == 0, err
        kept = surgeon.Plan.load("net-slim/plan.json").keep["conv1.weight"][0]
        assert kept == (1, 4, 5, 6)

    def test_a_second_run_replaces_the_files_and_drops_stale_ones(self, go: Go) -> None:
        go("shrink", "nets.py:literal", "--ratio", "0.5", *FAST, "-o", "out")
        Path("out/notes.txt").write_text("mine")
        code, _, err = go("shrink", *NET, "--ratio", "0.25", *FAST, "-o", "out")
        assert code == 0, err
        assert files("out") == {
            "slim.pth", "slim.safetensors", "plan.json", "report.json", "report.html", "notes.txt",
        }  # fmt: skip

    def test_folders_above_the_output_are_made(self, go: Go) -> None:
        assert go("shrink", *NET, "--ratio", "0.5", *FAST, "-o", "a/b/c")[0] == 0
        assert "slim.pth" in files("a/b/c")

    def test_an_architecture_alone_has_random_weights_and_says_so(self, go: Go) -> None:
        args = ("--ratio", "0.5", "--dry-run", "--json")
        code, out, err = go("shrink", "torchvision:squeezenet1_1", *args)
        assert code == 0
        assert "random weights" in err
        assert any("random weights" in note for note in json.loads(out)["notes"])

    def test_another_number_of_classes_comes_back(self, go: Go) -> None:
        import torchvision

        torch.save(torchvision.models.squeezenet1_1(num_classes=7).state_dict(), "seven.pth")
        args = ("--arch", "torchvision:squeezenet1_1", "--input", "1,3,32,32")
        code, _, err = go("shrink", "seven.pth", *args, "--ratio", "0.5", *FAST)
        assert code == 0, err
        assert surgeon.load("seven-slim/slim.pth")(torch.randn(1, 3, 32, 32)).shape == (1, 7)

    def test_the_published_resnet20(self, go: Go) -> None:
        if not SHARED.is_dir():
            pytest.skip("no ../shared")
        arch = f"{MODELS / 'cifar_resnet.py'}:resnet20"
        published = SHARED / "resnet20-12fca82f.th"
        code, out, err = go(
            "shrink", published, "--arch", arch, "--ratio", "0.5", *FAST, "-o", "out"
        )
        assert code == 0, err
        assert "proven" in out
        assert "module." in err

    def test_slim_files_can_be_shrunk_again(self, go: Go) -> None:
        go("shrink", *NET, "--ratio", "0.5", *FAST)
        code, _, err = go("shrink", "net-slim/slim.pth", "--ratio", "0.5", *FAST, "-o", "again")
        assert code == 0, err
        assert surgeon.load("again/slim.pth").get_parameter("conv1.weight").shape[0] == 2


def once(folder: Path, *commands: tuple[str, ...]) -> tuple[Path, str]:
    """A working folder in which these commands were run, and what they wrote on stdout."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as out:
        moved_to(folder, patch)
        assert [run(list(command)) for command in commands] == [0] * len(commands)
    return folder, out.getvalue()


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """net-slim, and net.onnx: its ONNX file."""
    shrink = ("shrink", *NET, "--ratio", "0.5", *FAST, "--quiet")
    export = ("export", "net-slim/slim.pth", "-o", "net.onnx")
    return once(tmp_path_factory.mktemp("cut"), shrink, export)


class TestOthers:
    @pytest.fixture
    def slim(self, here: Path, cut: tuple[Path, str]) -> str:
        """net-slim and net.onnx are here: what was said when they were made."""
        shutil.copytree(cut[0] / "net-slim", "net-slim")
        shutil.copy(cut[0] / "net.onnx", "net.onnx")
        return cut[1]

    def test_inspect(self, go: Go) -> None:
        code, out, _ = go("inspect", *NET)
        assert code == 0
        for said in (
            "conv1",
            "Conv2d",
            "8x3x3x3",
            "model output",
            "kind",
            "ops without a channel rule: none",
            "planned here and not tried",
        ):
            assert said in out
        code, out, _ = go("inspect", *NET, "--json")
        found = json.loads(out)
        assert [layer["name"] for layer in found["layers"]] == ["conv1", "bn1", "conv2", "fc"]
        assert sum(layer["params"] for layer in found["layers"]) == found["params"]
        assert sum(layer["flops"] for layer in found["layers"]) <= found["flops"]
        first = found["groups"][0]
        assert (first["name"], first["size"], first["cuttable"]) == ("conv1", 8, True)
        assert first["kind"] == "mlp" and found["ties"] == []
        assert {"state": "conv2.weight", "dim": 1, "role": "takes", "positions": 8} in first[
            "members"
        ]
        assert found["cuttable_share"] == pytest.approx(
            1 - 5 / found["params"]
        )  # all but fc's biases

    def test_inspect_says_kinds_and_what_stays_equal(self, go: Go) -> None:
        Path("halves.py").write_text(HALVES)
        code, out, _ = go("inspect", "halves.py:net")
        assert code == 0
        assert "equal in number, as the forward splits them evenly: 0.up = 0.up#2" in out
        code, out, _ = go("inspect", "halves.py:net", "--json")
        found = json.loads(out)
        assert found["ties"] == [["0.up", "0.up#2"]]
        kinds = {g["name"]: g["kind"] for g in found["groups"] if g["cuttable"]}
        assert kinds == {"0.up": "mlp", "0.up#2": "width", "1": "mlp"}

    def test_inspect_a_program(self, go: Go) -> None:
        go("shrink", "nets.py:literal", "--ratio", "0.5", *FAST)
        code, out, _ = go("inspect", "literal-slim/slim.pt2", "--json")
        assert code == 0
        assert json.loads(out)["layers"][0]["flops"] is None
        assert go("inspect", "literal-slim/slim.pt2")[0] == 0

    def test_apply_gives_the_same_network(self, go: Go, slim: str) -> None:
        code, out, err = go("apply", "net-slim/plan.json", *NET, *FAST, "-o", "applied")
        assert code == 0, err
        assert "proven" in out
        a, b = (
            surgeon.load(f"{folder}/slim.pth").state_dict() for folder in ("net-slim", "applied")
        )
        assert all(torch.equal(a[name], b[name]) for name in a)
        code, _, _ = go("shrink", *NET, "--plan", "net-slim/plan.json", *FAST, "-o", "replayed")
        assert code == 0
        assert surgeon.Plan.load("replayed/plan.json") == surgeon.Plan.load("net-slim/plan.json")

    def test_no_table_of_costs_where_they_could_not_be_counted(
        self, go: Go, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(*_: object) -> None:
            raise BadInput("nothing can be run here")

        monkeypatch.setattr("surgeon.cli.deliver._taken", fails)
        code, out, err = go("shrink", *NET, "--ratio", "0.5", *FAST)
        assert code == 0 and "not measured: nothing can be run here" in err
        assert "proven" in out and "before" not in out

    def test_inputs_that_are_given_one_by_one_are_those_of_one_call(self, go: Go) -> None:
        apart = ("--input", "2,3,8,8", "--input", "shift=2,5")
        code, out, err = go("inspect", "nets.py:named", *apart, "--json")
        assert code == 0, err
        assert out == go("inspect", "nets.py:named", "--input", "2,3,8,8;shift=2,5", "--json")[1]

    def test_a_plan_is_replayed_on_the_inputs_that_it_records(self, go: Go) -> None:
        sizes = ("--input", "2,3,8,8;shift=2,5")
        assert go("shrink", "nets.py:named", *sizes, "--ratio", "0.5", *FAST)[0] == 0
        for how in (
            ("apply", "named-slim/plan.json"),
            ("shrink", "--plan", "named-slim/plan.json"),
        ):
            code, out, err = go(*how, "nets.py:named", *FAST, "-o", "again")
            assert code == 0 and "proven" in out, err
            assert surgeon.Plan.load("again/plan.json").model["inputs"][1]["shape"] == [2, 5]

    @pytest.mark.parametrize("name", ["slim.pth", "slim.safetensors"])
    def test_check(self, go: Go, slim: str, name: str) -> None:
        plan = () if name == "slim.pth" else ("--plan", "net-slim/plan.json")
        arch = ("--arch", "nets.py:net")
        code, out, err = go("check", "net.pth", f"net-slim/{name}", *arch, *plan)
        assert code == 0, err
        assert "proven" in out
        code, out, _ = go("check", "net.pth", f"net-slim/{name}", *arch, *plan, "--json")
        assert json.loads(out)["proven"] is True

    def test_check_finds_one_changed_weight(self, go: Go, slim: str) -> None:
        document = torch.load("net-slim/slim.pth", weights_only=True)
        document["state"]["conv2.weight"][0, 0, 0, 0] += 0.1
        torch.save(document, "net-slim/slim.pth")
        code, out, err = go(
            "check", "net.pth", "net-slim/slim.pth", "--arch", "nets.py:net", "--json"
        )
        assert code == 4
        assert json.loads(out)["exit_code"] == 4
        assert "error: the cut model is off by" in err

    def test_check_needs_a_plan(self, go: Go, slim: str) -> None:
        code, _, err = go("check", "net.pth", "net-slim/slim.safetensors", "--arch", "nets.py:net")
        assert code == 2
        assert "--plan" in err

    def test_export(self, go: Go, slim: str) -> None:
        assert "equal to PyTorch" in slim
        code, out, _ = go("export", "net-slim/slim.pth", "--json", "--fixed-batch")
        assert code == 0
        assert json.loads(out)["dynamic_batch"] is False
        assert Path("slim.onnx").exists()

    def test_bench_compares_all_forms(self, go: Go, slim: str, quick: None) -> None:
        code, out, err = go("bench", "nets.py:net", "net.onnx", "net-slim/slim.pth")
        assert code == 0, err
        for said in (
            "nets.py:net",
            "net.onnx",
            "p90",
            "peak memory",
            "x",
            "1 thread",
            "[[1, 3, 8, 8]]",
        ):
            assert said in out
        code, out, _ = go("bench", "net.onnx", "net.onnx", "--json")
        first, second = json.loads(out)["models"]
        assert first["ratio"] is None
        assert second["ratio"]["value"] > 0
        assert second["name"] == "net.onnx #2"

    def test_bench_one_model(self, go: Go, quick: None) -> None:
        code, out, _ = go("bench", *NET, "--json")
        assert code == 0
        assert json.loads(out)["models"][0]["latency"]["median_s"] > 0

    def test_rules(self, go: Go) -> None:
        code, out, _ = go("rules")
        assert code == 0
        assert "aten.convolution" in out
        assert "n (g i) *, (g o) i *, (g o) -> n (g o) *" in out
        assert {"op", "family", "forms"} == set(json.loads(go("rules", "--json")[1])[0])
        table = go("rules", "--markdown")[1].splitlines()
        assert table[0] == "| family | ops | meaning |"
        assert all(line.startswith("| ") or line == "|---|---|---|" for line in table)

    def test_env(self, go: Go) -> None:
        found = json.loads(go("env", "--json")[1])
        assert found["packages"]["torch"] == torch.__version__.split("+")[0]
        assert found["cores"] == os.cpu_count()
        assert "onnxruntime" in go("env")[1]


class TestPipes:
    def test_a_reader_that_hangs_up_sees_no_traceback(self) -> None:
        command = f"{sys.executable} -c 'from surgeon.cli.main import main; main()' rules | head -1"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
        assert done.stdout.startswith("op")
        assert done.stderr == ""
