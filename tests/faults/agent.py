# SPDX-License-Identifier: Apache-2.0
"""The agent dies: alone, and together with an engine."""

import random
from collections.abc import Mapping

from faults import planned, sudden
from faults.planned import Change
from faults.rig import AGENT, Engine, Rig
from faults.run import Run

LONGEST_SEC = 2.0  # from a change to the kill


def load_again_without_agent(run: Run) -> None:
    """An instance dies and loads again while no agent is there."""
    host = run.rig.host
    kill_agent(run.rig)
    # Not to be started again after the five seconds of its Restart=.
    host.run("systemctl", "stop", AGENT)
    sudden.load_again(run)
    host.wait_for(lambda: run.rig.is_ready(run.victim), 60, "the engine to load again")
    host.run("systemctl", "start", AGENT)


def kill_agent(rig: Rig) -> None:
    """SIGKILL for all of its processes; until systemd knows."""
    before = rig.read_agent_pid()
    rig.host.run("systemctl", "kill", "--kill-whom=all", "--signal=KILL", AGENT, check=False)
    rig.host.wait_for(lambda: rig.read_agent_pid() != before, 10, "the agent to be dead")


class Changes:
    """Asks for one change after the other and knows what they come to."""

    def __init__(self, rig: Rig, choices: random.Random) -> None:
        self._rig = rig
        self._choices = choices
        self._levels = ("DEBUG", "INFO")
        self.count = 0
        self.drained: Engine | None = None

    @property
    def level(self) -> str:
        return self._levels[0]

    def make(self) -> None:
        """Have it accepted: a configuration that is rolled out, first of all, or a drain begun or ended."""
        if self.count == 0 or self._choices.random() < 0.5:
            self._levels = (self._levels[1], self._levels[0])
            planned.write_change(self._rig, Change.flag("--log_level", self.level))
            # An agent that is not there yet reads it when it starts.
            self._rig.host.run("systemctl", "reload", AGENT, check=False)
        elif self.drained is None:
            self.drained = self._choices.choice(self._rig.engines)
            self._order("drain", self.drained)
        else:
            self._order("undrain", self.drained)
            self.drained = None
        self.count += 1

    def end(self) -> None:
        """Everybody is to serve again."""
        if self.drained is not None:
            self._order("undrain", self.drained)
            self.drained = None

    def are_settled(self) -> bool:
        """Whether the agent has nothing left to do, as far as who is in rotation tells."""
        return self._rig.count_in_rotation() == len(self._rig.engines) - (self.drained is not None)

    def count_as_planned(self) -> int:
        """Instances that are what the changes come to: drained, or in rotation and of the last form."""
        try:
            entries = {entry["id"]: entry for entry in self._rig.read_status()["instances"]}
        except OSError:
            return 0
        return sum(self._is_as_planned(engine, entries.get(engine.name, {})) for engine in self._rig.engines)

    def _is_as_planned(self, engine: Engine, entry: Mapping[str, object]) -> bool:
        is_routed = entry.get("in_rotation") is True
        pid = self._rig.read_pid(engine)
        if engine is self.drained:
            return not pid and not is_routed
        return bool(pid) and is_routed and self.level in self._rig.read_form(engine, pid)

    def _order(self, verb: str, engine: Engine) -> None:
        # One that dies before it answers may have taken it; to give it again does no harm.
        taken = f"the agent to take {verb} {engine.name}"
        self._rig.host.wait_for(lambda: self._rig.order(verb, name=engine.name), 60, taken)


def kill_often(run: Run) -> None:
    """SIGKILL at random moments after changes, whose end must be what was asked for."""
    moments = random.Random(run.options.seed)
    rig = run.rig
    changes = Changes(rig, moments)
    unsettled = 0
    run.begin_fault()
    for _ in range(run.options.times):
        changes.make()
        run.pause(moments.uniform(0, LONGEST_SEC))
        unsettled += not changes.are_settled()
        kill_agent(rig)
        # Its Restart= would let five seconds pass each time, and a start waits for that (service_start()).
        rig.host.run("systemctl", "restart", "--no-block", AGENT)
    count = len(rig.engines)
    rig.host.wait_for(lambda: changes.count_as_planned() == count, 180, "the changes to be carried out")
    run.notes.append(f"{count} of {count} as planned")
    run.notes.append(f"{run.options.times} kills, {unsettled} of them amid a change")
    changes.end()
    rig.wait_until_whole()
