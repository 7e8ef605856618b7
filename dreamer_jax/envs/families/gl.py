"""Which OpenGL MuJoCo can draw with on this machine. It has to be settled before dm_control is imported, or a frame drawn."""

import functools
import os
import subprocess
import sys

# Those that need no display. Elsewhere than on Linux dm_control knows GLFW alone.
_CANDIDATES = ("egl", "osmesa") if sys.platform.startswith("linux") else ("glfw",)
_DRAWING = ("egl", "osmesa", "glfw")
# Environment variable "<what the user asked for>=<what can draw>", so that the processes of a run need not try again.
_TRIED = "DREAMER_JAX_GL"
_PROBE = """
import os
world = "<mujoco><worldbody><geom size='1'/></worldbody></mujoco>"
try:
    from dm_control import mujoco
except ModuleNotFoundError:  # only gymnasium's environments are installed
    import mujoco
    model = mujoco.MjModel.from_xml_string(world)
    renderer, data = mujoco.Renderer(model, 8, 8), mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    renderer.update_scene(data)
    renderer.render()
else:
    mujoco.Physics.from_xml_string(world).render(8, 8)
print("drawn", flush=True)
os._exit(0)  # some drivers fail while they are unloaded
"""


@functools.cache
def choose_gl() -> str | None:
    """Sets MUJOCO_GL to the first that can draw here, or to "disabled" -> its name, or None.

    A MUJOCO_GL that is already set is kept; then this only says whether it works. What fails can take the process
    with it, so it is tried in another one (about a second).
    """
    loaded = sys.modules.get("dm_control._render")
    if loaded is not None:  # imported by somebody else, who has thereby chosen
        return loaded.BACKEND if loaded.BACKEND in _DRAWING else None
    current = os.environ.get("MUJOCO_GL", "")
    asked, tried, found = os.environ.get(_TRIED, "").partition("=")
    if not tried or (asked or found or "disabled") != current:
        asked = current
        found = next(filter(_can_draw, (asked,) if asked else _CANDIDATES), "")
    os.environ["MUJOCO_GL"] = asked or found or "disabled"
    os.environ[_TRIED] = f"{asked}={found}"
    return found or None


def gl_advice() -> str:
    """What to do where `choose_gl` finds nothing."""
    asked = os.environ.get(_TRIED, os.environ.get("MUJOCO_GL", "")).partition("=")[0]
    if asked:
        return f"MUJOCO_GL={asked} cannot draw here; unset it, so that one is chosen"
    if not sys.platform.startswith("linux"):
        return "GLFW cannot draw here; a display is needed"
    return (
        "neither EGL nor OSMesa can draw here. Install one of them (Debian, Ubuntu: "
        "apt-get install libegl1 libopengl0 libgl1-mesa-dri, or apt-get install libosmesa6)"
    )


def _can_draw(backend: str) -> bool:
    try:
        result = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env={**os.environ, "MUJOCO_GL": backend},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=120,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return b"drawn" in result.stdout
