"""`muninn.torch`: a module's weights are shared once and attached elsewhere; what a
process does with its module harms no other.
"""

from __future__ import annotations

import asyncio
import copy
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import muninn
from muninn.errors import BufferMismatch, BufferNotFound, InvalidArgument
from support import Actor, eventually, leftovers, seenUntil

Start = Callable[..., Actor]

_MODEL = (Path(__file__).parent / "programs" / "torchModel.py").read_text()


@pytest.fixture
def lab(torch: Any) -> Any:
    """The names of the program above, in this process."""
    names: dict[str, Any] = {"__name__": "lab"}
    exec(_MODEL, names)  # the actors run the same text
    torch.manual_seed(7)

    class Lab:
        model = staticmethod(names["Model"])
        answer = staticmethod(names["answer"])
        muninn = names["muninn"].torch

    return Lab


def test_anotherProcessAttachesAModuleWithoutWeights(
    domain: str, actor: Start, lab: Any, torch: Any
) -> None:
    model = lab.model()
    model.norm.running_mean += 3
    bundle = lab.muninn.shareModule(model, "model")
    assert set(bundle) == {*model.state_dict(), "frequencies"}
    other = actor(_MODEL)
    other.do("with torch.device('meta'): model = Model()")
    assert other.do("len(muninn.torch.attachModule(model, 'model').missingKeys)") == 0
    assert other.do("answer(model)") == lab.answer(model)
    assert other.do("model.head.weight is model.embedding.weight")
    assert other.do("model.embedding.weight.requires_grad, model.again is model.norm") == [
        True,
        True,
    ]


def test_aForgottenEvalCostsAPageAndNotTheProcess(
    domain: str, actor: Start, lab: Any, torch: Any
) -> None:
    model = lab.model()
    bundle = lab.muninn.shareModule(model, "model")
    assert bundle.buffer.access == "readOnly"
    before = {key: np.asarray(bundle[key]).copy() for key in bundle}
    other = actor(_MODEL)
    other.do("model = Model(); muninn.torch.attachModule(model, 'model'); model.train()")
    other.do("model(torch.arange(5)).sum().backward()")
    other.do("torch.optim.SGD(model.parameters(), 0.5).step()")
    assert other.do("int(model.norm.num_batches_tracked)") == 2
    for key, value in before.items():
        np.testing.assert_array_equal(np.asarray(bundle[key]), value)
    other.do("fresh = Model(); muninn.torch.attachModule(fresh, 'model')")
    assert other.do("answer(fresh)") == lab.answer(model)


def test_tiedWeightsAreThereOnce(domain: str, lab: Any, torch: Any) -> None:
    model = lab.model()
    bundle = lab.muninn.shareModule(model, "model")
    assert np.shares_memory(bundle["embedding.weight"], bundle["head.weight"])
    assert not np.shares_memory(bundle["norm.weight"], bundle["norm.bias"])
    assert bundle.nbytes < 2 * 256 * len(model.state_dict())


def test_aModuleOverSeveralGpusIsAttachedFromAllOfThem(
    domain: str, lab: Any, torch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: tensors of the second GPU were views of the first one's segment."""
    monkeypatch.setenv("MUNINN_DEVICE", "host")
    monkeypatch.setenv("MUNINN_HOST_GPUS", "2")
    model, other = lab.model(), lab.model()
    places = {"embedding": 1, "head": 1, "": 0}
    with lab.muninn.shareModule(model, "model", preferredGpu=places) as bundle:
        assert bundle.gpus == (0, 1)
    lab.muninn.attachModule(other, "model")
    assert lab.answer(other) == lab.answer(model)
    shared = lab.muninn.stateDict("model")
    for key, tensor in model.state_dict().items():
        assert torch.equal(shared[key], tensor), key


def test_aStateDictLoads(domain: str, lab: Any, torch: Any) -> None:
    model = lab.model().to(torch.bfloat16)
    lab.muninn.shareModule(model, "model")
    state = lab.muninn.stateDict("model")
    assert state["embedding.weight"].dtype == torch.bfloat16
    twin = lab.model().to(torch.bfloat16)
    frequencies = state.pop("frequencies")
    assert frequencies.tolist() == [0, 1, 2]
    twin.load_state_dict(state, assign=True)
    assert lab.answer(twin) == lab.answer(model)


@pytest.mark.parametrize("strict", [True, False])
def test_keysOfOneSideOnlyAreToldAsByLoadStateDict(
    domain: str, lab: Any, torch: Any, strict: bool
) -> None:
    model = lab.model()
    state = dict(model.state_dict())
    del state["norm.bias"], state["again.bias"]  # one tensor, of a submodule with two names
    state["surplus"] = torch.ones(2)
    muninn.shareBundle(state, "model")
    before = copy.deepcopy(model.state_dict())
    if strict:
        with pytest.raises(BufferMismatch, match=r"norm\.bias is missing.*surplus is not"):
            lab.muninn.attachModule(model, "model")
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
        assert all(not isinstance(each, str) for each in model.parameters())
        return
    attached = lab.muninn.attachModule(model, "model", strict=False)
    expected = model.load_state_dict(state, strict=False)
    assert attached.missingKeys == expected.missing_keys
    assert attached.unexpectedKeys == expected.unexpected_keys


@pytest.mark.parametrize(
    ("prefix", "wrapper"), [("module", "DistributedDataParallel"), ("_orig_mod", "torch.compile")]
)
def test_theKeysOfAWrappedModuleAreKnown(
    domain: str, lab: Any, torch: Any, prefix: str, wrapper: str
) -> None:
    inner = torch.nn.Linear(2, 1)
    outer = torch.nn.Module()
    outer.register_module(prefix, inner)
    lab.muninn.shareModule(outer, "outer")
    with pytest.raises(BufferMismatch, match=rf"Share the `\.{prefix}` of.* {wrapper}"):
        lab.muninn.attachModule(inner, "outer")
    lab.muninn.shareModule(inner, "inner")
    with pytest.raises(BufferMismatch, match=rf"Attach it to the `\.{prefix}` of.* {wrapper}"):
        lab.muninn.attachModule(outer, "inner")
    lab.muninn.attachModule(outer, "outer")


def test_aQuantizedModuleIsToldWhatToShare(domain: str, lab: Any, torch: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = torch.ao.quantization.quantize_dynamic(
            torch.nn.Sequential(torch.nn.Linear(2, 1)), dtype=torch.qint8
        )
    with pytest.raises(InvalidArgument, match="before it was quantized"):
        lab.muninn.shareModule(quantized, "quantized")


def test_otherShapesAreRefusedAndChangeNothing(domain: str, lab: Any, torch: Any) -> None:
    lab.muninn.shareModule(lab.model(4), "model")
    wider = lab.model(6)
    kept = dict(wider.named_parameters())
    for strict in (True, False):
        with pytest.raises(BufferMismatch, match=r"\(7, 4\).*module's \(7, 6\).* more"):
            lab.muninn.attachModule(wider, "model", strict=strict)
    assert all(kept[key] is value for key, value in wider.named_parameters())


def test_whatIsNoModuleOfTensorsIsRefused(domain: str, lab: Any, torch: Any) -> None:
    class WithState(torch.nn.Linear):  # type: ignore[misc]
        def state_dict(self, *given: Any, **options: Any) -> Any:  # pylint: disable=invalid-name
            return {**super().state_dict(*given, **options), "_extra_state": {"epoch": 3}}

    with pytest.raises(InvalidArgument, match="_extra_state"):
        lab.muninn.shareModule(WithState(2, 2))
    with pytest.raises(InvalidArgument, match="ReLU has no parameters"):
        lab.muninn.shareModule(torch.nn.ReLU())
    with pytest.raises(BufferNotFound):
        lab.muninn.attachModule(lab.model(), "nothing")
    with pytest.raises(BufferMismatch):
        muninn.share(np.ones(3), "array")
        lab.muninn.stateDict("array")
    muninn.free("array")
    assert leftovers(domain) == []


def test_aModuleOutlivesItsBundleAndItsSharer(
    domain: str, actor: Start, lab: Any, torch: Any
) -> None:
    sharer = actor(_MODEL)
    sharer.do("model = Model(); bundle = muninn.torch.shareModule(model, 'model')")
    expected = sharer.do("answer(model)")
    model = lab.model()
    attached = lab.muninn.attachModule(model, "model")
    sharer.kill()
    muninn.free("model")
    attached.bundle.close()
    assert lab.answer(model) == expected


def test_moduleOfSeveralTypes(domain: str, lab: Any, torch: Any) -> None:
    class Mixed(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(2.0))
            self.empty = torch.nn.Parameter(torch.empty(0, 4))
            self.packed = torch.nn.Parameter(
                torch.arange(6, dtype=torch.uint8).view(torch.float4_e2m1fn_x2), False
            )
            self.register_buffer("turned", torch.arange(6.0).half().reshape(2, 3).t())
            self.register_buffer("eighth", torch.ones(3).to(torch.float8_e4m3fn))
            self.register_buffer("nothing", None)

    model, twin = Mixed(), Mixed()
    lab.muninn.shareModule(model, "mixed")
    twin.scale.data.zero_()
    lab.muninn.attachModule(twin, "mixed")
    for key, value in model.state_dict().items():
        found = twin.state_dict()[key]
        assert (found.dtype, found.shape) == (value.dtype, value.shape), key
        assert torch.equal(
            found.contiguous().reshape(-1).view(torch.uint8),
            value.contiguous().reshape(-1).view(torch.uint8),
        ), key
    assert twin.nothing is None


def test_aCheckpointThatHasOneNameOfATieIsWhole(
    domain: str, tmp_path: Path, lab: Any, torch: Any
) -> None:
    """safetensors' save_model writes one name of tied weights."""
    from safetensors.torch import save_model

    model = lab.model()
    save_model(model, str(tmp_path / "model.safetensors"))
    bundle = muninn.load(tmp_path / "model.safetensors", "model")
    assert not {"head.weight", "embedding.weight"} <= set(bundle)
    twin = lab.model()
    lab.muninn.attachModule(twin, "model")
    assert twin.head.weight is twin.embedding.weight
    assert lab.answer(twin) == lab.answer(model)
    with torch.device("meta"):
        empty = lab.model()
    with pytest.raises(BufferMismatch, match="frequencies is missing"):
        lab.muninn.attachModule(empty, "model")


def test_tiesOfOneSideOnlyAreRefused(domain: str, lab: Any, torch: Any) -> None:
    loose = lab.model()
    loose.head.weight = torch.nn.Parameter(loose.head.weight + 1)
    lab.muninn.shareModule(loose, "loose")
    with pytest.raises(BufferMismatch, match=r"head\.weight is tied in the module, and not"):
        lab.muninn.attachModule(lab.model(), "loose")


def test_aModuleThatRenamesOrHidesItsStateIsAttachedWhole(
    domain: str, lab: Any, torch: Any
) -> None:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    class Hides(torch.nn.Linear):  # type: ignore[misc]
        def state_dict(self, *given: Any, **options: Any) -> Any:  # pylint: disable=invalid-name
            return {}

    for make in (
        lambda: torch.nn.Sequential(checkpoint_wrapper(torch.nn.Linear(4, 3))),
        lambda: Hides(4, 3),
    ):
        source, twin = make(), make()
        with lab.muninn.shareModule(source, "m") as bundle:
            lab.muninn.attachModule(twin, "m")
            assert torch.equal(twin(torch.ones(4)), source(torch.ones(4)))
            bundle.free()


def test_eachFunctionThatTakesAModuleSharesItForReading(domain: str, lab: Any, torch: Any) -> None:
    model = lab.model()
    makers: dict[str, Callable[..., Any]] = {
        "shareModule": lambda **options: lab.muninn.shareModule(model, "m", **options),
        "publish": lambda **options: muninn.publish("m", model, **options),
        "shareOnce": lambda **options: muninn.shareOnce("m", lambda: model, **options),
    }
    for make in makers.values():
        for given, shared in ((None, "readOnly"), ("readWrite", "readWrite")):
            with make(access=given) as bundle:
                assert bundle.buffer.access == shared
                assert set(bundle) == {*model.state_dict(), "frequencies"}
                assert not bundle.buffer.writable or given
                bundle.free()
    assert leftovers(domain) == []


def test_aModuleThatAFunctionDoesNotTakeIsSentToTheOneThatDoes(
    domain: str, lab: Any, torch: Any
) -> None:
    for share in (
        lambda: muninn.share(lab.model(), "x"),
        lambda: muninn.shareBundle({"part": lab.model()}, "x"),
        lambda: muninn.shareBundle(lab.model(), "x"),
        lambda: muninn.shareOnce("x", lab.model()),
    ):
        with pytest.raises(TypeError, match=r"Model.*muninn\.torch\.shareModule shares a module"):
            share()
    with pytest.raises(InvalidArgument, match="copy out"):
        muninn.shareOnce("x", lambda: torch.nn.ParameterDict({"a": torch.ones(2)}), copy=False)
    with pytest.raises(TypeError, match=r"dict as an array: muninn\.shareBundle"):
        muninn.share({"a": np.ones(2)}, "x")


def test_aLazyModuleIsToBeCalledFirst(domain: str, lab: Any, torch: Any) -> None:
    lazy = torch.nn.LazyLinear(3)
    with pytest.raises(InvalidArgument, match="lazy module has no values yet.*Call the module"):
        lab.muninn.shareModule(lazy)
    source = torch.nn.Linear(2, 3)
    lab.muninn.shareModule(source, "linear")
    with pytest.raises(BufferMismatch, match="weight has no shape yet: call the lazy module"):
        lab.muninn.attachModule(lazy, "linear")
    lazy(torch.ones(2))
    lab.muninn.attachModule(lazy, "linear")
    assert torch.equal(lazy(torch.ones(2)), source(torch.ones(2)))


def test_aStateThatIsATensorOfNoPlaceIsRefused(domain: str, lab: Any, torch: Any) -> None:
    class Scaled(torch.nn.Linear):  # type: ignore[misc]
        def state_dict(self, *given: Any, **options: Any) -> Any:  # pylint: disable=invalid-name
            return {**super().state_dict(*given, **options), "_extra_state": torch.ones(1)}

    with pytest.raises(InvalidArgument, match="_extra_state.*would lose it"):
        lab.muninn.shareModule(Scaled(2, 2))
    for wrong in ("name", {"a": torch.ones(2)}):
        with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module"):
            lab.muninn.shareModule(wrong, "x")
        with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module"):
            lab.muninn.attachModule(wrong, "x")


def test_aFollowedModuleChangesBetweenTwoCalls(
    domain: str, actor: Start, lab: Any, torch: Any
) -> None:
    first, second = lab.model(), lab.model()
    expected = [lab.answer(model) for model in (first, second)]
    lab.muninn.shareModule(first, "model")
    follower = lab.muninn.followModule(lab.model().eval(), "model")
    tokens = torch.arange(5)
    with torch.no_grad():
        assert follower(tokens).tolist() == expected[0]
        before = follower.bundle
        muninn.publish("model", second)
        assert before.isCurrent is False and follower.bundle is before
        assert follower(tokens).tolist() == expected[1]
        assert follower.bundle.isCurrent and follower.bundle.buffer.access == "readOnly"
        muninn.publish("model", {"other": np.ones(2)})
        for _ in range(2):
            with pytest.raises(BufferMismatch, match="is missing"):
                follower(tokens)
        assert follower.module(tokens).tolist() == expected[1]


def test_callsOfSeveralThreadsSeeOneVersionEach(domain: str, lab: Any, torch: Any) -> None:
    """Each version is a module of two equal layers, so a call that saw two of them gives a
    number that no version gives.
    """

    class Twice(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, value: float) -> None:
            super().__init__()
            self.first = torch.nn.Parameter(torch.full((64,), value))
            self.second = torch.nn.Parameter(torch.full((64,), value))

        def forward(self) -> float:
            one = float(self.first.sum())
            time.sleep(0.001)
            return one - float(self.second.sum())

    lab.muninn.shareModule(Twice(0.0), "twice")
    follower = lab.muninn.followModule(Twice(0.0), "twice")
    over, differences = threading.Event(), list[float]()

    def call() -> None:
        while not over.is_set():
            differences.append(follower())

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for version in range(1, 20):
        muninn.publish("twice", Twice(float(version)))
    over.set()
    for thread in threads:
        thread.join()
    follower()
    assert differences and not any(differences)
    assert float(follower.module.first[0]) == 19
    assert not follower._inside


def test_aCallWithinACallGoesOnWithItsVersion(domain: str, lab: Any, torch: Any) -> None:
    class Nested(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = torch.nn.Parameter(torch.tensor(value))

        def forward(self, inner: Any = None) -> tuple[float, Any]:
            before = float(self.value)
            return before, inner and inner()

    lab.muninn.shareModule(Nested(1.0), "nested")
    follower = lab.muninn.followModule(Nested(0.0), "nested")

    def inner() -> float:
        muninn.publish("nested", Nested(2.0))
        return float(follower()[0])

    assert follower(inner) == (1.0, 1.0)
    assert follower() == (2.0, None)


def test_whatIsHeldStaysOnItsVersion(domain: str, lab: Any, torch: Any) -> None:
    """A method other than `forward`, a generator and a coroutine."""

    class Writes(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = torch.nn.Parameter(torch.tensor(value))

        def generate(self, count: int) -> Iterator[float]:
            for _ in range(count):
                yield float(self.value)

        async def answer(self) -> float:
            return float(self.value)

    lab.muninn.shareModule(Writes(1.0), "writes")
    follower = lab.muninn.followModule(Writes(0.0), "writes")
    others = list[float]()

    def another() -> None:
        with follower.held() as module:
            others.append(float(module.value))

    waiting = threading.Thread(target=another)
    with follower.held() as module:
        assert module is follower.module
        words = module.generate(3)
        found = [next(words)]
        muninn.publish("writes", Writes(2.0))
        waiting.start()
        found.append(next(words))
        with follower.held() as again:
            found += [*words, asyncio.run(again.answer())]
        waiting.join(0.2)
        assert not others  # it waits for this block, in which no swap happens
    waiting.join()
    assert found == [1.0] * 4
    assert others == [2.0]
    with pytest.raises(ZeroDivisionError), follower.held():
        raise ZeroDivisionError
    assert not follower._inside


def test_aForwardWhoseWorkComesLaterIsRefused(domain: str, lab: Any, torch: Any) -> None:
    class Generator(torch.nn.Linear):  # type: ignore[misc]
        def forward(self) -> Iterator[float]:
            yield float(self.bias[0])

    class Coroutine(torch.nn.Linear):  # type: ignore[misc]
        async def forward(self) -> float:
            return float(self.bias[0])

    class Asynchronous(torch.nn.Linear):  # type: ignore[misc]
        async def forward(self) -> AsyncIterator[float]:
            yield float(self.bias[0])

    lab.muninn.shareModule(torch.nn.Linear(2, 1), "linear")
    for kind, what in ((Generator, "generator"), (Coroutine, "coroutine"), (Asynchronous, "async")):
        follower = lab.muninn.followModule(kind(2, 1), "linear")
        with pytest.raises(InvalidArgument, match=rf"{what}.*follower\.held\(\)"):
            follower()
        assert not follower._inside
        follower.bundle.close()


def test_aVersionThatDoesNotFitIsAttachedOnce(
    domain: str, lab: Any, torch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = lab.model()
    lab.muninn.shareModule(model, "model")
    follower = lab.muninn.followModule(lab.model(), "model")
    wider = muninn.publish("model", lab.model(6))
    opened = list[str]()
    original = lab.muninn.attaching.opened

    def opening(name: str) -> Any:
        opened.append(name)
        return original(name)

    monkeypatch.setattr(lab.muninn.following, "opened", opening)
    errors = []
    for _ in range(3):
        with pytest.raises(BufferMismatch, match=r"\(7, 4\)") as raised:
            follower(torch.arange(5))
        errors.append(raised.value)
    assert opened == ["model"]
    wider.close()
    muninn.publish("model", model).close()
    # The one that the module is on and the newest, and not the one that did not fit.
    assert len(muninn.listBuffers()) == 2
    assert lab.answer(follower.module) == lab.answer(model)
    follower(torch.arange(5))
    assert follower.bundle.isCurrent


def test_aheadNoCallAttaches(
    domain: str, lab: Any, torch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [lab.model() for _ in range(4)]
    expected = [lab.answer(model) for model in models]
    lab.muninn.shareModule(models[0], "model")
    follower = lab.muninn.followModule(lab.model().eval(), "model", ahead=True)
    tokens = torch.arange(5)

    def answer() -> Any:
        with torch.no_grad():
            return follower(tokens).tolist()

    assert answer() == expected[0]
    with monkeypatch.context() as patched:
        patched.setattr(lab.muninn.following, "attached", lambda *_: pytest.fail("a call attaches"))
        for model, wanted in zip(models[1:3], expected[1:3], strict=True):
            muninn.publish("model", model).close()
            assert all(each in expected for each in seenUntil(wanted, answer))
        assert follower.module.head.weight is follower.module.embedding.weight
        eventually(lambda: len(muninn.listBuffers()) == 1, "the older ones are let go")
    # What the thread has prepared is for the module as it was.
    muninn.publish("model", models[3]).close()
    eventually(lambda: follower._upcoming.ready().bundle.isCurrent, "it is prepared")
    follower.module.embedding.requires_grad_(False)
    assert answer() == expected[3] and follower.bundle.isCurrent
    assert not follower.module.embedding.weight.requires_grad
    eventually(lambda: len(muninn.listBuffers()) == 1, "what was prepared is let go")


@pytest.mark.parametrize("isShared", [True, False])
def test_aheadAModuleThatTheProgramChangedIsAttachedAnew(
    domain: str, lab: Any, torch: Any, isShared: bool
) -> None:
    """A submodule was replaced after the thread had prepared the version."""
    lab.muninn.shareModule(lab.model(), "model")
    follower = lab.muninn.followModule(lab.model().eval(), "model", ahead=True)
    newest = lab.model()
    muninn.publish("model", newest).close()
    eventually(lambda: follower._upcoming.ready(), "it is prepared")
    follower.module.norm = torch.nn.BatchNorm1d(4 if isShared else 3).eval()
    follower.module.again = follower.module.norm
    if not isShared:
        for _ in range(2):
            with pytest.raises(BufferMismatch, match="norm"):
                follower(torch.arange(5))
        assert follower.module.norm.weight.shape == (3,)
        return
    follower(torch.arange(5))
    assert torch.equal(follower.module.norm.weight, newest.norm.weight)
    assert lab.answer(follower.module) == lab.answer(newest)


def test_aheadAVersionThatDoesNotFitIsSaid(domain: str, lab: Any, torch: Any) -> None:
    model = lab.model()
    lab.muninn.shareModule(model, "model")
    follower = lab.muninn.followModule(lab.model(), "model", ahead=True)
    muninn.publish("model", lab.model(6)).close()
    eventually(lambda: follower._upcoming.hasFailed, "it is found not to fit")
    for _ in range(2):
        with pytest.raises(BufferMismatch, match=r"\(7, 4\)"):
            follower(torch.arange(5))
    muninn.publish("model", model).close()
    eventually(lambda: not follower._upcoming.hasFailed, "the next one fits")
    follower(torch.arange(5))
    assert follower.bundle.isCurrent
    eventually(lambda: len(muninn.listBuffers()) == 1, "the others are let go")


def test_anInterruptedAttachLeavesTheModuleWhole(domain: str, lab: Any, torch: Any) -> None:
    class Interrupted(dict):  # type: ignore[type-arg]
        def __setitem__(self, key: str, value: Any) -> None:
            super().__setitem__(key, value)
            if armed:
                armed.clear()
                raise KeyboardInterrupt

    model, twin = lab.model(), lab.model()
    lab.muninn.shareModule(model, "model")
    expected, armed = lab.answer(twin), ["once"]
    twin.norm._parameters = Interrupted(twin.norm._parameters)
    with pytest.raises(KeyboardInterrupt):
        lab.muninn.attachModule(twin, "model")
    assert not armed and lab.answer(twin) == expected
    assert twin.head.weight is twin.embedding.weight
    lab.muninn.attachModule(twin, "model")
    assert lab.answer(twin) == lab.answer(model)


def test_muninnAloneDoesNotImportTorch(domain: str) -> None:
    program = "import sys, muninn; muninn.domainInfo(); print('torch' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout.strip() == "False"
