# SPDX-License-Identifier: Apache-2.0
"""The two ways to run a model: with OpenVINO, or simulated."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from lab.standin.ovms_standin.classic import compile_model, find_model_file
from lab.standin.ovms_standin.config_file import Entry
from lab.standin.ovms_standin.engine import Engine, EngineError
from lab.standin.ovms_standin.engine_simulated import Pace, SimulatedEngine
from lab.standin.ovms_standin.faults import Faults
from lab.standin.ovms_standin.graph import GraphSettings
from lab.standin.ovms_standin.loading import Backend
from lab.standin.ovms_standin.render_nodes import RenderNodes
from lab.standin.ovms_standin.servables import ClassicModel


class SimulatedBackend:
    """Looks at the files that OpenVINO would read, and reads none of them."""

    def __init__(self, *, pace: Pace, faults: Faults) -> None:
        self._pace = pace
        self._faults = faults

    async def load_engine(self, graph: GraphSettings) -> Engine:
        if not (graph.models_path / "openvino_model.xml").is_file():
            raise EngineError(f"Could not open {graph.models_path / 'openvino_model.xml'}")
        return SimulatedEngine(
            pace=self._pace,
            faults=self._faults,
            slots=graph.max_num_seqs,
            render_nodes=RenderNodes.open(graph.device),
        )

    async def load_classic(self, model: ClassicModel, version_dir: Path, entry: Entry) -> None:
        find_model_file(version_dir)
        RenderNodes.open(entry.target_device)
        model.compiled = "simulated"


class OpenVinoBackend:
    """The real thing; loading happens in a thread, so that status requests are answered meanwhile."""

    def __init__(self, *, faults: Faults) -> None:
        self._faults = faults

    async def load_engine(self, graph: GraphSettings) -> Engine:
        from lab.standin.ovms_standin.engine_openvino import OpenVinoEngine

        loop = asyncio.get_running_loop()
        return await asyncio.to_thread(OpenVinoEngine, graph, loop=loop, faults=self._faults)

    async def load_classic(self, model: ClassicModel, version_dir: Path, entry: Entry) -> None:
        path = find_model_file(version_dir)
        model.compiled, model.inputs, model.outputs = await asyncio.to_thread(
            compile_model,
            path,
            device=entry.target_device,
            properties=entry.plugin_config,
        )


def choose_backend(environment: Mapping[str, str], *, pace: Pace, faults: Faults) -> tuple[Backend, str]:
    """OpenVINO where it can be imported, unless OVMS_STANDIN_ENGINE=simulated; and which it is."""
    if environment.get("OVMS_STANDIN_ENGINE") == "simulated":
        return SimulatedBackend(pace=pace, faults=faults), "SIMULATED, as asked: no model is run"
    try:
        import openvino_genai
    except ImportError as exc:
        reason = f"SIMULATED, without OpenVINO GenAI ({exc}): no model is run"
        return SimulatedBackend(pace=pace, faults=faults), reason
    return OpenVinoBackend(faults=faults), f"OpenVINO GenAI {openvino_genai.get_version()}"
