"""Bad input gets one clear message that says what to do, exit 2 (3, 4), and nothing is written."""

import io
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

import surgeon
from surgeon.cli.main import run
from surgeon.errors import BadInput, CheckFailed
from surgeon.pipeline.replay import apply_checked

torch.set_num_threads(1)

NETS = """
import torch
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
        )

class Fails(Net):
    def forward(self, x):
        raise RuntimeError("the model's own trouble")

class Chance(Net):
    def forward(self, x):
        import random
        return super().forward(x + random.random())

class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(x)

net, fails, chance, fixed = Net, Fails, Chance, Fixed

def quits():
    import sys
    sys.exit("no data set")

def broken(model):
    return 1 / 0
"""

Refused = Callable[..., str]
RATIO = ("--ratio", "0.5")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETS)
    scope: dict = {}
    exec(NETS, scope)
    torch.manual_seed(0)
    torch.save(scope["Net"]().state_dict(), "net.pth")
    return tmp_path


@pytest.fixture
def refused(here: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that must fail, leaving every file as it was; gives what it said on stderr."""

    def refused(*args: object, code: int = 2) -> str:
        before = {path: path.stat().st_mtime_ns for path in here.rglob("*") if path.is_file()}
        assert run([str(arg) for arg in args]) == code
        said = capsys.readouterr()
        assert said.out == ""
        assert "Traceback" not in said.err
        errors = said.err[said.err.index("error: ") :]
        assert "\nhint: " in errors
        after = {path: path.stat().st_mtime_ns for path in here.rglob("*") if path.is_file()}
        after = {path: at for path, at in after.items() if "__pycache__" not in path.parts}
        assert after == before
        assert not [
            path for path in here.rglob("*") if path.is_dir() and path.name != "__pycache__"
        ]
        return errors

    return refused


NET = ("net.pth", "--arch", "nets.py:net")


class TestFiles:
    def test_missing(self, refused: Refused) -> None:
        said = refused("shrink", "nett.pth", *RATIO)
        assert "nett.pth: no such file" in said
        assert "did you mean net.pth" in said

    def test_empty(self, refused: Refused) -> None:
        Path("empty.pth").touch()
        assert "empty.pth: the file is empty" in refused("shrink", "empty.pth", *RATIO)

    @pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
    def test_truncated(self, refused: Refused, share: float) -> None:
        whole = Path("net.pth").read_bytes()
        Path("cut.pth").write_bytes(whole[: int(len(whole) * share)])
        assert "cut off" in refused("shrink", "cut.pth", "--arch", "nets.py:net", *RATIO)

    def test_corrupted(self, refused: Refused) -> None:
        data = bytearray(Path("net.pth").read_bytes())
        weight = torch.load("net.pth", weights_only=True)["3.weight"].numpy().tobytes()
        data[data.index(weight) + 100] ^= 0xFF
        Path("bad.pth").write_bytes(data)
        assert "damaged" in refused("shrink", "bad.pth", "--arch", "nets.py:net", *RATIO)

    def test_noise(self, refused: Refused) -> None:
        Path("noise.pth").write_bytes(bytes(range(256)) * 10)
        assert "not a checkpoint" in refused("shrink", "noise.pth", *RATIO)

    def test_text(self, refused: Refused) -> None:
        Path("text.pth").write_text("hello, this is no checkpoint\n")
        assert "a text file, not a checkpoint" in refused("shrink", "text.pth", *RATIO)

    def test_a_folder(self, refused: Refused) -> None:
        assert "a directory" in refused("shrink", "/", *RATIO)

    def test_onnx(self, refused: Refused) -> None:
        Path("net.onnx").write_bytes(b"\x08\x0a")
        assert "cannot be read as" in (said := refused("inspect", "net.onnx")) or "ONNX" in said

    def test_bench_of_a_broken_onnx_file(self, refused: Refused) -> None:
        Path("net.onnx").write_bytes(b"\x08\x0a")
        assert "ONNX Runtime cannot load net.onnx" in refused("bench", "net.onnx")
        assert "no such file" in refused("bench", "missing.onnx")


class TestArchitecture:
    def test_a_checkpoint_that_does_not_fit(self, refused: Refused) -> None:
        said = refused("shrink", "net.pth", "--arch", "torchvision:squeezenet1_1", *RATIO)
        assert "net.pth does not fit torchvision:squeezenet1_1" in said
        assert "0.weight" in said

    def test_shapes_that_differ_are_named(self, refused: Refused) -> None:
        state = torch.load("net.pth", weights_only=True)
        state["0.weight"] = torch.zeros(9, 3, 3, 3)
        torch.save(state, "wide.pth")
        said = refused("shrink", "wide.pth", "--arch", "nets.py:net", *RATIO)
        assert "0.weight: [9, 3, 3, 3] in the file, [8, 3, 3, 3] in the model" in said

    def test_none_given_names_those_that_fit(self, refused: Refused) -> None:
        torch.save(torchvision.models.squeezenet1_1().state_dict(), "some.pth")
        said = refused("shrink", "some.pth", *RATIO)
        assert "they fit torchvision:squeezenet1_1" in said
        assert "--arch torchvision:squeezenet1_1" in said

    def test_none_given_and_none_fits(self, refused: Refused) -> None:
        assert "no architecture" in refused("shrink", "net.pth", *RATIO)

    @pytest.mark.parametrize(
        "ref, near",
        [
            ("torchvision:resnet81", "resnet18"),
            ("resnet18x", "torchvision:resnet18"),
            ("nets.py:nett", "net"),
        ],
    )
    def test_unknown(self, refused: Refused, ref: str, near: str) -> None:
        assert near in refused("shrink", "net.pth", "--arch", ref, *RATIO)

    def test_unknown_as_a_model(self, refused: Refused) -> None:
        assert "resnet18" in refused("inspect", "torchvision:resnet81")


class Command:
    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.marker}",)


class Off(nn.Module):
    """A class on no allow-list."""


class TestPickles:
    def test_a_class_off_the_list_is_named(self, refused: Refused) -> None:
        torch.save(Off(), "off.pth")
        said = refused("shrink", "off.pth", *RATIO)
        assert "Off" in said
        assert "--allow" in said

    @pytest.mark.parametrize("zipped", [True, False])
    def test_a_command_does_not_run(self, refused: Refused, here: Path, zipped: bool) -> None:
        bad = {"state_dict": Command(str(here / "ran"))}
        torch.save(bad, "evil.pth", _use_new_zipfile_serialization=zipped)
        said = refused("shrink", "evil.pth", *RATIO)
        assert "system" in said
        assert not Path("ran").exists()

    def test_a_plain_pickle_does_not_run(self, refused: Refused, here: Path) -> None:
        Path("evil.pth").write_bytes(pickle.dumps(Command(str(here / "ran"))))
        refused("inspect", "evil.pth")
        assert not Path("ran").exists()


class TestOptions:
    @pytest.mark.parametrize("ratio", ["1", "1.5", "-0.1", "100%", "nan", "inf"])
    def test_a_ratio_outside(self, refused: Refused, ratio: str) -> None:
        said = refused("shrink", *NET, "--ratio", ratio)
        assert "outside [0, 1)" in said or "is not a number" in said

    @pytest.mark.parametrize("ratio", ["half", "", "0,5", "%"])
    def test_a_ratio_that_is_no_number(self, refused: Refused, ratio: str) -> None:
        assert "is not a number" in refused("shrink", *NET, "--ratio", ratio)

    def test_options_are_refused_before_the_model_is_opened(self, refused: Refused) -> None:
        assert "outside [0, 1)" in refused("shrink", "missing.pth", "--ratio", "2")

    @pytest.mark.parametrize(
        "args, said",
        [
            ((*RATIO, "--max-flops", "0.5x"), "contradict"),
            (("--max-flops", "lots"), "is not a limit"),
            (("--max-flops", "0"), "above 0"),
            (("--max-params", "2x"), "at most 1x"),
            ((), "nothing was asked"),
            (("--ratio-for", "conv1"), "cannot be read"),
            (("--ratio-for", "0=2"), "ratio_for 0: ratio 2 is outside [0, 1)"),
            ((*RATIO, "-o", ""), "-o is empty"),
            ((*RATIO, "-o", "/proc/nope/x"), "hint: choose another folder with -o"),
            ((*RATIO, "--scope", "world"), "scope 'world' does not exist"),
            ((*RATIO, "--cut", "head"), "did you mean heads?"),
            ((*RATIO, "--by", "weight"), "by 'weight' does not exist"),
            ((*RATIO, "--round-to", "0"), "--round-to '0'"),
            ((*RATIO, "--round-to", "many"), "--round-to 'many'"),
            ((*RATIO, "--criterion", "magic"), "no criterion 'magic'"),
            ((*RATIO, "--ignore", "conv9*"), "no layer matches 'conv9*'"),
            (("--remove", "0=x"), "is no position and no range"),
            (("--remove", "0=5-2"), "is no position and no range"),
            (("--remove", "0=1-99999999999"), "no layer has that many"),
            (("--remove", "0=99"), "has channels 0 to 7, not 99\n"),
            (("--remove", "conv9=1"), "no layer 'conv9'"),
            (("--remove", "0:out=1"), "unknown side"),
            ((*RATIO, "--metric", "nets.py"), "names no function"),
            ((*RATIO, "--metric", "none.py:f"), "no such file"),
            ((*RATIO, "--metric", "nets.py:gone"), "has no function 'gone'"),
            ((*RATIO, "--metric", "nets.py:broken"), "ZeroDivisionError"),
        ],
    )
    def test_each_mistake_is_named(self, refused: Refused, args: tuple, said: str) -> None:
        errors = refused("shrink", *NET, *args)
        assert said in errors

    @pytest.mark.parametrize(
        "args", [("--frob",), ("--threads", "0"), ("--threads", "two"), ("--ratio",)]
    )
    def test_usage(self, refused: Refused, args: tuple) -> None:
        assert "surgeon shrink --help" in refused("shrink", *NET, *args)

    def test_an_unknown_command(self, refused: Refused) -> None:
        assert "No such command 'shrunk'" in refused("shrunk")

    def test_out_of_reach(self, refused: Refused) -> None:
        said = refused("shrink", *NET, "--max-params", "10", code=3)
        assert "cannot be reached: the least is" in said

    def test_nothing_to_cut(self, refused: Refused) -> None:
        said = refused("shrink", "nets.py:fixed", *RATIO, code=3)
        assert "nothing can be cut (fc" in said

    def test_no_channels_of_a_kind(self, refused: Refused) -> None:
        said = refused("shrink", *NET, *RATIO, "--cut", "heads", code=3)
        assert "nothing can be cut (" in said and "not among the kinds to cut (--cut heads)" in said

    def test_json_has_the_error_on_stdout(
        self, here: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for args, code in ((["shrink", "x.pth", *RATIO], 2), (["shrink", "--frob"], 2)):
            assert run([*args, "--json"]) == code
            said = capsys.readouterr()
            document = json.loads(said.out)
            assert said.err.endswith(f"error: {document['error']}\nhint: {document['hint']}\n")
            assert document["exit_code"] == code


class TestModels:
    @pytest.mark.parametrize("sizes", ["1,3,8", "1,4,8,8", "1,3,2,2"])
    def test_an_input_that_does_not_fit(self, refused: Refused, sizes: str) -> None:
        said = refused("shrink", *NET, "--input", sizes, *RATIO)
        assert "the model fails in forward" in said
        assert "with inputs f32[" in said

    @pytest.mark.parametrize("sizes", ["1,3,x", "1,0,8,8", "", "1,3,8,8:float7", "-1,3,8,8"])
    def test_an_input_that_cannot_be_read(self, refused: Refused, sizes: str) -> None:
        assert "--input" in refused("shrink", *NET, "--input", sizes, *RATIO)

    def test_a_model_that_fails_in_forward(self, refused: Refused) -> None:
        said = refused("shrink", "nets.py:fails", "--input", "1,3,8,8", *RATIO)
        assert "RuntimeError: the model's own trouble" in said
        assert "f32[1,3,8,8]" in said.replace(" ", "")

    def test_one_that_fails_on_every_guess(self, refused: Refused) -> None:
        said = refused("shrink", "nets.py:fails", *RATIO)
        assert "no input could be guessed" in said
        assert "RuntimeError: the model's own trouble (input 2,3,32,32)" in said

    def test_one_that_is_not_deterministic(self, refused: Refused) -> None:
        assert "not deterministic" in refused("shrink", "nets.py:chance", *RATIO)

    def test_a_failed_check_writes_nothing(
        self, refused: Refused, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import importlib

        def fail(*_args: object, **_how: object) -> None:
            raise CheckFailed("off by a lot", "this is a bug in surgeon: nothing was written")

        monkeypatch.setattr(importlib.import_module("surgeon.pipeline.proven"), "run_check", fail)
        assert "off by a lot" in refused("shrink", *NET, *RATIO, code=4)

    def test_an_export_that_differs_writes_nothing(
        self, refused: Refused, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from surgeon.report import files

        own = files.export_onnx

        def fail(model: object, path: Path, inputs: object, **how: object) -> object:
            if path.name != "original.onnx":
                raise CheckFailed("output of the ONNX file differs")
            return own(model, path, inputs, **how)  # type: ignore[arg-type]

        monkeypatch.setattr(files, "export_onnx", fail)
        assert "--no-onnx" in refused("shrink", *NET, *RATIO, code=4)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_weights_that_are_no_numbers_are_said_and_go_first(
        self, here: Path, capsys: pytest.CaptureFixture[str], bad: float
    ) -> None:
        state = torch.load("net.pth", weights_only=True)
        state["3.weight"][11, 0, 0, 0] = bad
        torch.save(state, "nan.pth")
        args = ["shrink", "nan.pth", "--arch", "nets.py:net", *RATIO, "--no-measure", "--no-onnx"]
        assert run(args) == 0
        said = capsys.readouterr()
        assert "NaN or infinite weights in 3.weight" in said.err
        assert "proven" in said.out
        assert 11 not in surgeon.Plan.load("nan-slim/plan.json").keep["3.weight"][0]

    def test_an_unexpected_error_is_called_a_bug(
        self, refused: Refused, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from surgeon.files import source

        def fail(*_args: object) -> None:
            raise ZeroDivisionError("deep inside")

        monkeypatch.setattr(source, "open_model", fail)
        said = refused("inspect", "net.pth", code=1)
        assert "ZeroDivisionError: deep inside" in said
        assert "SURGEON_DEBUG=1" in said
        monkeypatch.setenv("SURGEON_DEBUG", "1")
        with pytest.raises(ZeroDivisionError):
            run(["inspect", "net.pth"])


class TestPlans:
    @pytest.fixture
    def plan(self, here: Path) -> dict:
        source = surgeon.open_model("net.pth", "nets.py:net", "2,3,8,8")
        result = surgeon.shrink(source.model, source.inputs, ratio=0.5, check=False, measure=False)
        return result.plan.to_json()

    def apply(self, refused: Refused, plan: object) -> str:
        Path("plan.json").write_text(json.dumps(plan))
        return refused("apply", "plan.json", *NET, "--input", "1,3,8,8")

    def test_made_for_another_model(self, refused: Refused, plan: dict) -> None:
        Path("plan.json").write_text(json.dumps(plan))
        said = refused("apply", "plan.json", "torchvision:squeezenet1_1", "--input", "1,3,64,64")
        assert "made for another model: there 0.weight is [8, 3, 3, 3], it is not here" in said

    def test_made_for_another_model_that_takes_other_inputs(
        self, refused: Refused, plan: dict
    ) -> None:
        Path("plan.json").write_text(json.dumps(plan))
        said = refused("apply", "plan.json", "nets.py:fixed")
        assert "made for another model: there 0.weight is [8, 3, 3, 3], it is not here" in said

    @pytest.mark.parametrize(
        "state, said", [(True, "is not that of the tensors it lists"), (False, "another model")]
    )
    def test_a_fingerprint_of_something_else(
        self, refused: Refused, plan: dict, state: bool, said: str
    ) -> None:
        plan["model"]["fingerprint"] = "sha256:00"
        if not state:
            del plan["model"]["state"]
        assert said in self.apply(refused, plan)

    def test_a_group_cut_in_one_tensor_only(self, refused: Refused, plan: dict) -> None:
        plan["keep"]["0.weight"]["0"].pop()
        Path("plan.json").write_text(json.dumps(plan))
        said = refused("apply", "plan.json", *NET)
        assert "the plan does not fit" in said

    def test_an_index_that_is_not_there(self, refused: Refused, plan: dict) -> None:
        plan["keep"]["0.weight"]["0"][-1] = 99
        assert "keeps index 99 of 0.weight dim 0" in self.apply(refused, plan)

    def test_an_output_of_the_model(self, refused: Refused, plan: dict) -> None:
        plan["keep"]["6.bias"] = {"0": [0, 1]}
        plan["keep"]["6.weight"]["0"] = [0, 1]
        assert "model output" in self.apply(refused, plan)

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", "{}", '{"format": "surgeon-plan", "version": 9}']
    )
    def test_no_plan(self, refused: Refused, text: str) -> None:
        Path("plan.json").write_text(text)
        assert "plan" in refused("apply", "plan.json", *NET)

    def test_missing(self, refused: Refused) -> None:
        assert "no such file: gone.json" in refused("apply", "gone.json", *NET)

    def test_a_plan_and_a_ratio(self, refused: Refused, plan: dict) -> None:
        Path("plan.json").write_text(json.dumps(plan))
        assert "--plan says what is cut" in refused("shrink", *NET, *RATIO, "--plan", "plan.json")

    def test_check_of_another_original(self, refused: Refused, plan: dict) -> None:
        Path("plan.json").write_text(json.dumps(plan))
        args = (
            "torchvision:squeezenet1_1",
            "net.pth",
            "--plan",
            "plan.json",
            "--input",
            "1,3,64,64",
        )
        assert "the plan was made for another model" in refused("check", *args)


class TestOutput:
    def test_below_a_file(self, refused: Refused, capsys: pytest.CaptureFixture[str]) -> None:
        Path("file").touch()
        code = run(["shrink", *NET, *RATIO, "-o", "file/out"])
        said = capsys.readouterr().err
        assert code == 2
        assert "cannot write file/out: Not a directory" in said
        assert "trace" not in said  # before the long work

    def test_a_file(self, refused: Refused) -> None:
        Path("file").touch()
        assert "file is a file, not a folder" in refused("shrink", *NET, *RATIO, "-o", "file")

    def test_a_dangling_link(self, refused: Refused) -> None:
        Path("link").symlink_to("nowhere")
        assert "not a folder" in refused("shrink", *NET, *RATIO, "-o", "link")

    def test_a_system_folder(self, refused: Refused) -> None:
        assert "cannot write /proc/out" in refused("shrink", *NET, *RATIO, "-o", "/proc/out")

    def test_export(self, refused: Refused) -> None:
        Path("file").touch()
        assert "cannot write" in refused("export", *NET, "-o", "file/net.onnx")

    def test_a_document_of_json_has_no_nan(self) -> None:
        from surgeon.report.document import dumps

        data = {"a": float("nan"), "b": [1.5, float("inf"), (2,)], 3: None}
        assert json.load(io.StringIO(dumps(data))) == {"a": None, "b": [1.5, None, [2]], "3": None}


class TestLeftovers:
    def test_a_factory_that_quits(self, refused: Refused) -> None:
        said = refused("inspect", "nets.py:quits", "--input", "1,3,8,8")
        assert "nets.py:quits stopped the program: sys.exit('no data set')" in said

    def test_an_input_that_no_machine_holds(self, refused: Refused) -> None:
        said = refused("inspect", *NET, "--input", "1,3,999999,999999")
        assert "--input '1,3,999999,999999' cannot be made: it takes 12,000 GB" in said

    def test_a_full_disk_and_json(self, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
        if not Path("/dev/full").exists():
            pytest.skip("no /dev/full")
        code = "from surgeon.cli.main import main; main()"
        args = [sys.executable, "-c", code, "rules", "--json"]
        with open("/dev/full", "w") as full:
            ran = subprocess.run(args, stdout=full, stderr=subprocess.PIPE, text=True)
        assert ran.returncode == 2
        assert ran.stderr == "error: No space left on device\nhint: is the disk full?\n"

    def test_a_slim_file_that_was_changed_is_not_called_a_bug(self, refused: Refused) -> None:
        scope: dict = {}
        exec(NETS, scope)
        model = scope["Net"]()
        model.load_state_dict(torch.load("net.pth", weights_only=True))
        result = surgeon.shrink(model, torch.zeros(2, 3, 8, 8), 0.5, measure=False)
        with torch.no_grad():
            result.model.get_parameter("3.weight")[0, 0] += 1
        surgeon.save(result, "slim.pth")
        said = refused("check", "net.pth", "slim.pth", "--arch", "nets.py:net", code=4)
        assert "is off by" in said and "bug in surgeon" not in said
        assert "is it the model that this plan makes of the original" in said

    def test_a_plan_that_keeps_all_counts_so(self, here: Path) -> None:
        scope: dict = {}
        exec(NETS, scope)
        model, x = scope["Net"](), torch.zeros(2, 3, 8, 8)
        plan = surgeon.shrink(model, x, 0.5, measure=False).plan
        whole = apply_checked(replace(plan, keep={}), model, x, measure=False).plan
        assert [(g.name, g.size, g.kept) for g in whole.groups] == [("0", 8, 8), ("3", 16, 16)]
        assert whole.removed == 0
        again = apply_checked(plan, model, x, measure=False).plan
        assert again.groups == plan.groups

    def test_a_plan_of_another_head_names_the_first_tensor(self, here: Path) -> None:
        scope: dict = {}
        exec(NETS, scope)
        model, x = scope["Net"](), torch.zeros(2, 3, 8, 8)
        plan = surgeon.shrink(model, x, 0.5, measure=False).plan
        model[6] = nn.Linear(16, 9)
        with pytest.raises(BadInput, match=r"there 6\.weight is \[5, 16\], it is \[9, 16\] here"):
            surgeon.apply(plan, model, x)
