"""Stable-Baselines3 trains on memwatch's buffer as on its own: the same batches, returns and parameters."""

import copy
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

np = pytest.importorskip("numpy", reason="arrays are what is compared")
sb3 = pytest.importorskip(
    "stable_baselines3",
    reason="compares with Stable-Baselines3 itself, which brings torch: pip install 'memwatch[sb3]'",
)
gymnasium = pytest.importorskip("gymnasium", reason="Stable-Baselines3 brings it, and its environments are trained on")
torch = pytest.importorskip("torch", reason="Stable-Baselines3 brings it, and its tensors are compared")

from gymnasium import spaces  # noqa: E402
from stable_baselines3.common import buffers  # noqa: E402
from stable_baselines3.common.callbacks import BaseCallback  # noqa: E402
from stable_baselines3.common.env_util import make_vec_env  # noqa: E402
from stable_baselines3.common.vec_env import VecNormalize  # noqa: E402

from memwatch.errors import DoesNotFit  # noqa: E402
from memwatch.integrations.stable_baselines3 import ReplayBuffer  # noqa: E402

VECTOR = spaces.Box(-1, 1, (3,), np.float32)
SPACES = {
    "vector": (VECTOR, spaces.Box(-1, 1, (2,), np.float32)),
    "image-and-number": (spaces.Box(0, 255, (4, 4, 1), np.uint8), spaces.Discrete(5)),
    "number": (spaces.Discrete(7), spaces.Discrete(5)),
    "doubles": (spaces.Box(-1, 1, (3,), np.float64), spaces.Box(-1, 1, (2,), np.float64)),
    "dict": (
        spaces.Dict({"the place": VECTOR, "goal": spaces.Discrete(4)}),
        spaces.Box(-1, 1, (2,), np.float32),
    ),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """With more, sums may be in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def drawn(space: Any, n_envs: int) -> Any:
    """An observation of each environment, as a VecEnv gives them."""
    if isinstance(space, spaces.Dict):
        return {key: drawn(below, n_envs) for key, below in space.items()}
    return np.stack([space.sample() for _ in range(n_envs)])


def put(over: Any, where: Any, new: Any) -> Any:
    """*over*, with *new* in the environments *where*."""
    if isinstance(over, dict):
        return {key: put(over[key], where, new[key]) for key in over}
    over = over.copy()
    over[where] = new[where]
    return over


def steps(space: Any, action_space: Any, n_envs: int, count: int) -> Iterator[tuple[Any, ...]]:
    """What add() is given: each obs is the next_obs before, but after an episode's end; some end by a timeout."""
    rng = np.random.default_rng(1)
    space.seed(2)
    action_space.seed(3)
    obs = drawn(space, n_envs)
    for _ in range(count):
        next_obs = drawn(space, n_envs)
        done = rng.random(n_envs) < 0.2
        infos = [{"TimeLimit.truncated": bool(over and rng.random() < 0.5)} for over in done]
        yield obs, next_obs, drawn(action_space, n_envs), rng.normal(size=n_envs), done, infos
        obs = put(next_obs, done, drawn(space, n_envs))


def flat(samples: Any) -> dict[str, Any]:
    """All tensors of a batch, by name."""
    found = {}
    for name, value in samples._asdict().items():
        if isinstance(value, dict):
            found |= {f"{name}/{key}": below for key, below in value.items()}
        elif value is not None:
            found[name] = value
    return found


def assert_same(theirs: Any, ours: Any, *, but_at_ends: bool = False) -> None:
    """To the last bit, with types and shapes; *but_at_ends*: next_obs only where no episode ended."""
    assert type(theirs) is type(ours)
    left, right = flat(theirs), flat(ours)
    assert list(left) == list(right)
    goes_on = (theirs.dones == 0).reshape(-1)
    for name in left:
        a, b = left[name], right[name]
        assert (a.dtype, a.shape, a.device) == (b.dtype, b.shape, b.device), name
        if but_at_ends and name.startswith("next_observations"):
            a, b = a[goes_on], b[goes_on]
        assert torch.equal(a, b), name


def sampled(buffer: Any, seed: int, env: Any = None) -> Any:
    np.random.seed(seed)
    return buffer.sample(32, env=env)


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("handle_timeouts", [True, False], ids=["timeouts", "no-timeouts"])
@pytest.mark.parametrize("kind", SPACES)
def test_batches_are_the_same(kind: str, handle_timeouts: bool, n_envs: int) -> None:
    """From the first step until it was overwritten three times, bit by bit, from the same seed."""
    space, action_space = SPACES[kind]
    cls = buffers.DictReplayBuffer if kind == "dict" else buffers.ReplayBuffer
    arguments = {"device": "cpu", "n_envs": n_envs, "handle_timeout_termination": handle_timeouts}
    theirs = cls(10 * n_envs + 1, space, action_space, **arguments)
    ours = ReplayBuffer(10 * n_envs + 1, space, action_space, **arguments)
    for number, step in enumerate(steps(space, action_space, n_envs, 35)):
        ours.add(*step)
        theirs.add(*copy.deepcopy(step))  # for it shapes what a dict has anew

        assert (theirs.pos, theirs.full, theirs.size()) == (ours.pos, ours.full, ours.size())
        assert_same(sampled(theirs, number), sampled(ours, number))


@pytest.mark.parametrize("n_envs", [1, 3])
def test_batches_are_the_same_when_memory_is_saved(n_envs: int) -> None:
    """With optimize_memory_usage, too; only where an episode ended is next_obs the true one, and not the next one's."""
    space, action_space = SPACES["vector"]
    arguments = {"device": "cpu", "n_envs": n_envs, "handle_timeout_termination": False, "optimize_memory_usage": True}
    theirs = buffers.ReplayBuffer(10 * n_envs, space, action_space, **arguments)
    ours = ReplayBuffer(10 * n_envs, space, action_space, **arguments)
    exact = ReplayBuffer(10 * n_envs, space, action_space, **arguments | {"optimize_memory_usage": False})
    for number, step in enumerate(steps(space, action_space, n_envs, 35)):
        for buffer in (theirs, ours, exact):
            buffer.add(*step)

        assert_same(sampled(theirs, number), sampled(ours, number), but_at_ends=True)
        np.random.seed(number)
        places = np.random.randint(0, ours.size(), size=8)
        np.random.seed(number)
        expected = exact._get_samples(places)
        np.random.seed(number)
        assert_same(expected, ours._get_samples(places))


def test_an_episode_that_learn_cuts_is_over_until_it_is_overwritten() -> None:
    """Stable-Baselines3 sets `dones` of the last step when learn() begins anew; what is written there counts again."""
    space, action_space = SPACES["vector"]
    arguments = {"device": "cpu", "handle_timeout_termination": False, "optimize_memory_usage": True}
    theirs = buffers.ReplayBuffer(5, space, action_space, **arguments)
    ours = ReplayBuffer(5, space, action_space, **arguments)
    for number, step in enumerate(steps(space, action_space, 1, 17)):
        for buffer in (theirs, ours):
            buffer.add(*step)
            if number % 7 == 3:
                buffer.dones[(buffer.pos - 1) % buffer.buffer_size] = True

        assert_same(sampled(theirs, number), sampled(ours, number), but_at_ends=True)


def test_what_is_added_is_copied() -> None:
    """Arrays that are given may be written over at once."""
    space, action_space = SPACES["vector"]
    ours = ReplayBuffer(5, space, action_space, device="cpu")
    step = next(steps(space, action_space, 1, 1))
    ours.add(*step)
    expected = sampled(ours, 0).observations.clone()
    step[0][:] = 9
    sampled(ours, 0).observations[:] = 9

    assert torch.equal(expected, sampled(ours, 0).observations)


def test_normalized_batches_are_the_same() -> None:
    """VecNormalize is applied to what is drawn, as Stable-Baselines3 does it."""
    env = VecNormalize(make_vec_env("Pendulum-v1", n_envs=2, seed=0))
    env.reset()
    for _ in range(20):
        env.step(np.array([env.action_space.sample() for _ in range(2)]))
    space, action_space = env.observation_space, env.action_space
    theirs = buffers.ReplayBuffer(20, space, action_space, device="cpu", n_envs=2)
    ours = ReplayBuffer(20, space, action_space, device="cpu", n_envs=2)
    for step in steps(space, action_space, 2, 15):
        theirs.add(*step)
        ours.add(*step)

    assert_same(sampled(theirs, 5, env), sampled(ours, 5, env))
    assert not torch.equal(sampled(ours, 5).observations, sampled(ours, 5, env).observations)


@pytest.mark.parametrize("kind", ["vector", "dict"])
def test_a_pickled_one_goes_on(kind: str) -> None:
    """As save_replay_buffer() and load_replay_buffer() do it: the same batches, before and after more steps."""
    space, action_space = SPACES[kind]
    ours = ReplayBuffer(10, space, action_space, device="cpu", n_envs=2)
    made = list(steps(space, action_space, 2, 12))
    for step in made[:8]:
        ours.add(*step)
    other = pickle.loads(pickle.dumps(ours))
    for step in made[8:]:
        assert_same(sampled(ours, 3), sampled(other, 3))
        ours.add(*step)
        other.add(*step)

    assert_same(sampled(ours, 4), sampled(other, 4))


def test_reset_forgets() -> None:
    space, action_space = SPACES["vector"]
    ours = ReplayBuffer(3, space, action_space, device="cpu")
    made = list(steps(space, action_space, 1, 6))
    for step in made[:5]:
        ours.add(*step)
    ours.reset()
    ours.add(*made[5])

    assert (1, 1, False, 1) == (ours.size(), ours.pos, ours.full, len(ours.rows))
    assert np.array_equal(made[5][0], sampled(ours, 0).observations[:1].numpy())


def test_what_cannot_fit_is_refused() -> None:
    """Where Stable-Baselines3 warns, and fills until the machine is out of memory."""
    with pytest.raises(DoesNotFit, match="would fit"):
        ReplayBuffer(4_000_000_000, spaces.Box(0, 1, (1_000_000,), np.float32), SPACES["vector"][1], device="cpu")


def test_observations_take_room_once() -> None:
    """Bytes of it, against the arrays of Stable-Baselines3: half of them for images."""
    space, action_space = spaces.Box(0, 255, (84, 84, 4), np.uint8), spaces.Discrete(4)
    theirs = buffers.ReplayBuffer(200, space, action_space, device="cpu")
    ours = ReplayBuffer(200, space, action_space, device="cpu")
    arrays = (theirs.observations, theirs.next_observations, theirs.actions, theirs.rewards, theirs.dones)

    assert ours.rows.nbytes < 0.54 * sum(array.nbytes for array in arrays)  # of few rows the side table is much


class Returns(BaseCallback):
    """Each episode's return."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[float] = []

    def _on_step(self) -> bool:
        self.found += [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
        return True


def trained(
    kind: Any, env: str, cls: Any, learns: tuple[int, ...], n_envs: int, **arguments: Any
) -> tuple[list[float], dict[str, Any]]:
    """Returns of the episodes, and the parameters at the end."""
    model = kind(
        "MlpPolicy",
        make_vec_env(env, n_envs=n_envs, seed=5),
        seed=7,
        device="cpu",
        replay_buffer_class=cls,
        policy_kwargs={"net_arch": [16, 16]},
        **arguments,
    )
    callback = Returns()
    for steps_ in learns:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The last trajectory in the replay buffer will be truncated")
            model.learn(steps_, callback=callback)
    assert cls is None or type(model.replay_buffer) is cls
    return callback.found, model.policy.state_dict()


SAVING = {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}}
OFTEN = {"train_freq": 2, "learning_starts": 100, "batch_size": 32}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of gymnasium and torch, which are not asked here
@pytest.mark.parametrize(
    ("kind", "env", "learns", "n_envs", "arguments"),
    [
        pytest.param("SAC", "Pendulum-v1", (900,), 1, {**OFTEN, "buffer_size": 500}, id="SAC"),
        pytest.param("TD3", "Pendulum-v1", (900,), 1, {**OFTEN, "buffer_size": 500}, id="TD3"),
        pytest.param("DQN", "CartPole-v1", (1500,), 1, {**OFTEN, "buffer_size": 700}, id="DQN"),
        pytest.param("TD3", "Pendulum-v1", (1200,), 3, {**OFTEN, "buffer_size": 500}, id="TD3-three-environments"),
        pytest.param(
            "DQN", "CartPole-v1", (700, 700), 1, {**OFTEN, **SAVING, "buffer_size": 500}, id="DQN-that-saves-memory"
        ),
    ],
)
def test_training_is_the_same(kind: str, env: str, learns: tuple[int, ...], n_envs: int, arguments: Any) -> None:
    """Past the buffer's end: each episode's return, and each parameter at the end, to the last bit."""
    algorithm = getattr(sb3, kind)
    expected_returns, expected = trained(algorithm, env, None, learns, n_envs, **arguments)
    returns, parameters = trained(algorithm, env, ReplayBuffer, learns, n_envs, **arguments)

    assert len(returns) >= 3
    assert expected_returns == returns
    assert list(expected) == list(parameters)
    assert all(torch.equal(expected[name], parameters[name]) for name in expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_model_saves_and_loads_it(tmp_path: Path) -> None:
    """save_replay_buffer(), load_replay_buffer() into another model, and learn() goes on."""
    model = sb3.SAC("MlpPolicy", "Pendulum-v1", buffer_size=300, seed=1, device="cpu", replay_buffer_class=ReplayBuffer)
    model.learn(50)
    model.save_replay_buffer(tmp_path / "buffer")
    other = sb3.SAC("MlpPolicy", "Pendulum-v1", buffer_size=300, seed=1, device="cpu", replay_buffer_class=ReplayBuffer)
    other.load_replay_buffer(tmp_path / "buffer")

    assert_same(sampled(model.replay_buffer, 2), sampled(other.replay_buffer, 2))
    other.learn(30)
    assert other.replay_buffer.size() == 80


def test_rows_may_be_on_a_disk(tmp_path: Path) -> None:
    """replay_buffer_kwargs={"store": ...}: the same batches."""
    space, action_space = SPACES["vector"]
    ours = ReplayBuffer(10, space, action_space, device="cpu")
    other = ReplayBuffer(10, space, action_space, device="cpu", store=tmp_path / "rows")
    for step in steps(space, action_space, 1, 14):
        ours.add(*step)
        other.add(*step)

    assert_same(sampled(ours, 1), sampled(other, 1))
