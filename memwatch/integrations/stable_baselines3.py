"""
Stable-Baselines3: its SAC, TD3 and DQN train on a ReplayBuffer of memwatch, with the returns they have on their own.

    from memwatch.integrations.stable_baselines3 import ReplayBuffer

    SAC("MlpPolicy", env, replay_buffer_class=ReplayBuffer)

For Dict observations, too. What it takes is checked when it is made, and each observation is stored once. With
HerReplayBuffer or n_steps, Stable-Baselines3 needs its own.
"""

import os
from typing import Any

try:
    import stable_baselines3.common.buffers as sb3  # type: ignore[import-not-found, unused-ignore]
except ImportError as error:
    raise ImportError("this integration needs Stable-Baselines3: pip install 'memwatch[sb3]'") from error

from .. import replay

__all__ = ["ReplayBuffer"]


class ReplayBuffer(sb3.ReplayBuffer):  # type: ignore[misc, unused-ignore]
    """
    Stable-Baselines3's ReplayBuffer, or its DictReplayBuffer, over memwatch's: the same batches from the same seeds.

    next_obs is the true one in each case, and takes no room of its own, whether optimize_memory_usage is set or not.
    That argument draws as Stable-Baselines3 does with it, is allowed for Dict observations and together with
    handle_timeout_termination, and of next_obs differs from Stable-Baselines3 where an episode ended: there is the last
    observation, and not the next episode's first.

    Args:
        store: A path for the rows, on a disk (replay_buffer_kwargs={"store": ...}); None: in memory.

    Attributes:
        rows: The buffer that has them: "obs", "action", "reward", "done" (not by a timeout, where these are handled
            apart), "next_obs". Of step t and environment e, at t * n_envs + e.

    Raises:
        DoesNotFit: Full, it would leave less than the brake needs.
    """

    pos: int

    def __init__(  # noqa: PLR0917 - as it is called
        self,
        buffer_size: int,
        observation_space: Any,
        action_space: Any,
        device: Any = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        *,
        store: str | os.PathLike[str] | None = None,
    ) -> None:
        # Past its own ReplayBuffer, which would allocate.
        super(sb3.ReplayBuffer, self).__init__(buffer_size, observation_space, action_space, device, n_envs=n_envs)
        self.buffer_size = max(buffer_size // n_envs, 1)
        self.optimize_memory_usage = optimize_memory_usage
        self.handle_timeout_termination = handle_timeout_termination
        self.cut: set[int] = set()
        fields: dict[str, Any] = {"action": ((self.action_dim,), self._maybe_cast_dtype(action_space.dtype))}
        fields |= {"reward": "float32", "done": "float32"}
        if isinstance(self.obs_shape, dict):
            # By number, for a key of a Dict space can be any text.
            self._keys: dict[Any, str] = {key: f"k{number}" for number, key in enumerate(self.obs_shape)}
            fields["obs"] = {it: (self.obs_shape[key], observation_space[key].dtype) for key, it in self._keys.items()}
        else:
            self._keys = {}
            fields["obs"] = (self.obs_shape, observation_space.dtype)
        size = self.buffer_size * n_envs
        self.rows = replay.ReplayBuffer(size, fields, next_of="obs", environments=n_envs, store=store)

    def _array(self, name: str, value: Any) -> Any:
        """Cast as an assignment to an array does, which is how Stable-Baselines3 takes it."""
        import numpy as np

        field = self.rows.fields[name]
        return np.ascontiguousarray(np.asarray(value).reshape((self.n_envs, *field.shape)), field.dtype)

    def _observation(self, name: str, value: Any) -> Any:
        if not self._keys:
            return self._array(name, value)
        return {below: self._array(f"{name}/{below}", value[key]) for key, below in self._keys.items()}

    def add(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: Any) -> None:  # noqa: PLR0917
        """One step of all environments, as Stable-Baselines3 gives it."""
        ended = self._array("done", done)
        if self.handle_timeout_termination:
            ended = ended * (1 - self._array("done", [info.get("TimeLimit.truncated", False) for info in infos]))
        self.rows.extend(
            obs=self._observation("obs", obs),
            next_obs=self._observation("next_obs", next_obs),
            action=self._array("action", action),
            reward=self._array("reward", reward),
            done=ended,
        )
        self.cut.discard(self.pos)
        self.pos += 1
        if self.pos == self.buffer_size:
            self.full = True
            self.pos = 0

    def reset(self) -> None:
        """Forgets all steps."""
        super().reset()
        self.cut.clear()
        self.rows.clear()

    @property
    def dones(self) -> "_Dones":  # type: ignore[override, unused-ignore]
        """To be set only: with optimize_memory_usage, learn() ends the last episode of an earlier learn()."""
        return _Dones(self.cut)

    def _get_samples(self, batch_inds: Any, env: Any = None) -> Any:
        """Those of these steps, each of an environment drawn as Stable-Baselines3 draws it."""
        import numpy as np

        environments = np.random.randint(0, high=self.n_envs, size=(len(batch_inds),))
        batch = self.rows.get(batch_inds * self.n_envs + environments)
        if self.cut:
            batch["done"][np.isin(batch_inds, list(self.cut))] = 1
        found = {name: self._normalize_obs(self._joined(batch, name), env) for name in ("obs", "next_obs")}
        reward = self._normalize_reward(batch["reward"].reshape(-1, 1), env)
        parts = (found["obs"], batch["action"], found["next_obs"], batch["done"].reshape(-1, 1), reward)
        kind = "DictReplayBufferSamples" if self._keys else "ReplayBufferSamples"
        return getattr(sb3, kind)(*map(self._tensor, parts))

    def _joined(self, batch: dict[str, Any], name: str) -> Any:
        return {key: batch[f"{name}/{below}"] for key, below in self._keys.items()} if self._keys else batch[name]

    def _tensor(self, part: Any) -> Any:
        """It shares the array's memory, which is nobody else's."""
        if isinstance(part, dict):
            return {key: self._tensor(value) for key, value in part.items()}
        return self.to_torch(part, copy=False)


class _Dones:
    """What is set here is over, whatever was stored."""

    def __init__(self, cut: set[int]) -> None:
        self._cut = cut

    def __setitem__(self, step: int, over: bool) -> None:
        (self._cut.add if over else self._cut.discard)(int(step))
