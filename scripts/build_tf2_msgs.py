"""Builds `tf2_msgs` into the environment that runs this script, from its one message.

ROS 2 publishes no wheel of `tf2_msgs`, and TF cannot be spoken without `tf2_msgs/msg/TFMessage`.
The rosidl wheels bring the generators as plain Python, so no CMake is needed (their CMake files
point at the machine that built the wheels): generate the C sources, compile them, and link one
Python extension that holds the message, its Python side and both type supports that Fast DDS asks
for. Those are looked up by library name at run time, so each name is a link to that extension.

Where `tf2_msgs` can be imported already (a sourced ROS), there is nothing to do.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

PACKAGE = "tf2_msgs"
MESSAGE = "msg/TFMessage.msg"
MODULE = f"{PACKAGE}_s__rosidl_typesupport_c"
TYPE_SUPPORTS = ("rosidl_typesupport_fastrtps_c", "rosidl_typesupport_introspection_c")
# Exactly what the generated code calls; all of them come with geometry_msgs.
LIBRARIES = (
    "geometry_msgs__rosidl_generator_py",
    "geometry_msgs__rosidl_generator_c",
    "geometry_msgs__rosidl_typesupport_fastrtps_c",
    "std_msgs__rosidl_generator_c",
    "builtin_interfaces__rosidl_generator_c",
    "geometry_msgs__rosidl_typesupport_introspection_c",
    "rosidl_typesupport_fastrtps_c",
    "rosidl_typesupport_introspection_c",
    "rosidl_typesupport_c",
    "rosidl_runtime_c",
    "rcutils",
    "fastcdr",
)


class BuildError(Exception):
    """The build cannot go on; the message says what is missing and what to do."""


def compilers() -> tuple[list[str], list[str]]:
    """Commands for C and C++: `$CC`/`$CXX`, or what the machine has.

    Raises:
        BuildError: there is no compiler.
    """
    c = os.environ.get("CC", "").split() or [shutil.which("cc") or shutil.which("gcc") or ""]
    cxx = os.environ.get("CXX", "").split() or [shutil.which("c++") or shutil.which("g++") or ""]
    if not c[0] or not cxx[0]:
        raise BuildError("there is no C++ compiler. On Debian and Ubuntu: sudo apt-get install g++")
    return c, cxx


def python_headers() -> Path:
    """Folder with Python.h.

    Raises:
        BuildError: the interpreter came without its headers.
    """
    folder = Path(sysconfig.get_paths()["include"])
    if not (folder / "Python.h").exists():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise BuildError(
            f"Python.h is not in {folder}. On Debian and Ubuntu: "
            f"sudo apt-get install python{version}-dev"
        )
    return folder


def generate(share: Path, message_root: Path, output: Path) -> None:
    """Writes the C and Python sources of the message into ``output``."""
    # The generators find their templates through the ament index.
    os.environ["AMENT_PREFIX_PATH"] = str(share.parent)
    from rosidl_adapter.cli import TranslateMsgToIDL
    from rosidl_generator_c.cli import GenerateC
    from rosidl_generator_py.cli import GeneratePython
    from rosidl_generator_type_description.cli import HashTypeDescription
    from rosidl_typesupport_c.cli import GenerateCTypesupport
    from rosidl_typesupport_fastrtps_c.cli import GenerateFastRTPSCTypesupport
    from rosidl_typesupport_introspection_c.cli import GenerateIntrospectionCTypesupport

    include = [str(share)]
    idl = TranslateMsgToIDL("msg2idl").translate(
        PACKAGE, [f"{message_root}:{MESSAGE}"], include, output
    )
    hashes = HashTypeDescription("type_description").generate_type_hashes(
        PACKAGE, idl, include, output
    )
    GenerateC("c").generate(PACKAGE, idl, include, output, type_description_files=hashes)
    GeneratePython("py", typesupport_implementations=["rosidl_typesupport_c"]).generate(
        PACKAGE, idl, include, output
    )
    GenerateCTypesupport("c", typesupport_implementations=list(TYPE_SUPPORTS)).generate(
        PACKAGE, idl, include, output
    )
    GenerateFastRTPSCTypesupport("fastrtps_c").generate(PACKAGE, idl, include, output)
    GenerateIntrospectionCTypesupport("introspection_c").generate(PACKAGE, idl, include, output)


def run(command: list[str], environment: dict[str, str] | None = None) -> None:
    """Runs a command and shows its output only when it fails.

    Raises:
        BuildError: the command failed.
    """
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"`{' '.join(command)}` failed:\n{done.stdout}{done.stderr}")


def compile_extension(sources: Path, prefix: Path, build: Path) -> Path:
    """Compiles everything under ``sources`` into one Python extension module."""
    import numpy

    c, cxx = compilers()
    # Generated sources include "tf2_msgs/msg/...", the wheels keep one include folder per package.
    (build / PACKAGE).symlink_to(sources, target_is_directory=True)
    system = [prefix / "include", *sorted((prefix / "include").iterdir())]
    system += [python_headers(), Path(numpy.get_include())]
    flags = ["-O2", "-DNDEBUG", "-fPIC", "-w", f"-I{build}"]
    for folder in system:
        flags += ["-isystem", str(folder)]
    objects: list[str] = []
    for source in sorted([*sources.rglob("*.c"), *sources.rglob("*.cpp")]):
        target = build / f"{len(objects)}_{source.name}.o"
        compiler = c if source.suffix == ".c" else [*cxx, "-std=c++17"]
        run([*compiler, *flags, "-c", str(source), "-o", str(target)])
        objects.append(str(target))
    library = build / f"{MODULE}{sysconfig.get_config_var('EXT_SUFFIX')}"
    # The module lands in <prefix>/lib/pythonX.Y/site-packages/tf2_msgs, the libraries in lib.
    run(
        [*cxx, "-shared", "-o", str(library), *objects, f"-L{prefix / 'lib'}", "-Wl,--as-needed"]
        + [f"-l{name}" for name in LIBRARIES]
        + ["-Wl,--disable-new-dtags", "-Wl,-rpath,$ORIGIN/../../.."]
    )
    return library


def install(sources: Path, library: Path, site_packages: Path, lib: Path) -> None:
    """Puts the package into ``site_packages`` and links the names of its type supports in ``lib``.

    The links come first and the package in one rename, so that half a package is never importable.
    """
    final = site_packages / PACKAGE
    for type_support in TYPE_SUPPORTS:
        link = lib / f"lib{PACKAGE}__{type_support}.so"
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(final / library.name, lib))
    staged = Path(tempfile.mkdtemp(prefix=f".{PACKAGE}-", dir=site_packages))
    (staged / "__init__.py").touch()
    shutil.copy2(library, staged / library.name)
    (staged / "msg").mkdir()
    for module in sources.glob("msg/*.py"):
        shutil.copy2(module, staged / "msg" / module.name)
    staged.chmod(0o755)
    shutil.rmtree(final, ignore_errors=True)
    staged.rename(final)


def check() -> None:
    """Makes a publisher of the message in a new interpreter: that asks for every type support.

    Raises:
        BuildError: the module does not work there.
    """
    program = (
        "import rclpy\n"
        "from tf2_msgs.msg import TFMessage\n"
        "rclpy.init()\n"
        "node = rclpy.create_node('tf2_msgs_check', namespace='coopnet_setup')\n"
        "node.create_publisher(TFMessage, 'tf', 1)\n"
        "rclpy.shutdown()\n"
    )
    environment = dict(os.environ, ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST")
    run([sys.executable, "-c", program], environment)


def main() -> int:
    """Builds and installs the package unless it is there."""
    force = "--force" in sys.argv[1:]
    if importlib.util.find_spec(PACKAGE) is not None and not force:
        check()
        return 0
    prefix = Path(sys.prefix)
    message_root = Path(__file__).resolve().parent / "interfaces" / PACKAGE
    with tempfile.TemporaryDirectory() as temporary:
        sources = Path(temporary) / "sources"
        build = Path(temporary) / "build"
        sources.mkdir()
        build.mkdir()
        generate(prefix / "share", message_root, sources)
        library = compile_extension(sources, prefix, build)
        install(sources, library, Path(sysconfig.get_paths()["platlib"]), prefix / "lib")
    check()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BuildError as error:
        print(f"build_tf2_msgs: {error}", file=sys.stderr)
        sys.exit(1)
