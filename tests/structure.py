"""The structure of the package, from the code's own imports: `python tests/structure.py` prints it.

Imports inside functions count as well; those for type checkers alone do not. `tests/test_structure.py` holds the limits.
"""

import ast
from collections.abc import Mapping, Set
from graphlib import TopologicalSorter
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "dreamer_jax"
SCRIPTS = "scripts"

Imports = Mapping[str, Set[str]]  # a name -> the names that it imports


def package_imports() -> dict[str, set[str]]:
    """The packages of dreamer_jax, and `scripts` -> the packages that each imports."""
    graph = grimp.build_graph("dreamer_jax", exclude_type_checking_imports=True)
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    imports = {
        package: {
            _package(imported)
            for module in graph.modules
            if _package(module) == package
            for imported in graph.find_modules_directly_imported_by(module)
        }
        for package in packages
    }
    imports[SCRIPTS] = {
        _package(node.module)
        for path in (ROOT / SCRIPTS).glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module
    }
    return {name: (others & packages) - {name} for name, others in imports.items()}


def module_imports(package: str) -> dict[str, set[str]]:
    """The modules of one package -> the modules of the same package that each imports."""
    graph = grimp.build_graph("dreamer_jax", exclude_type_checking_imports=True)
    prefix = f"dreamer_jax.{package}."
    modules = {name for name in graph.modules if name.startswith(prefix)}
    return {
        name.removeprefix(prefix): {
            other.removeprefix(prefix) for other in graph.find_modules_directly_imported_by(name) & modules
        }
        for name in modules
    }


def levels(imports: Imports) -> dict[str, int]:
    """The level of each name: 1 where it imports nothing, else one more than the highest level that it imports.

    Raises:
      graphlib.CycleError: names import each other.
    """
    found: dict[str, int] = {}
    for name in TopologicalSorter(imports).static_order():
        found[name] = 1 + max((found[other] for other in imports[name]), default=0)
    return found


def longest_chain(imports: Imports) -> list[str]:
    """The longest chain of names in which each imports the next; empty without names."""
    level = levels(imports)
    chain = sorted(level, key=lambda name: (-level[name], name))[:1]
    while chain and imports[chain[-1]]:
        chain.append(max(sorted(imports[chain[-1]]), key=level.__getitem__))
    return chain


def lines(path: Path) -> int:
    """The number of lines of a Python file, or of all those below a folder."""
    files = [path] if path.is_file() else path.rglob("*.py")
    return sum(len(file.read_text().splitlines()) for file in files)


def _package(module: str) -> str:
    """dreamer_jax.agent.rssm -> agent; an empty name for what does not belong to the package."""
    root, _, rest = module.partition(".")
    return rest.split(".")[0] if root == "dreamer_jax" else ""


def main() -> None:
    imports = package_imports()
    level = levels(imports)
    print("level  package     lines  imports")
    for name in sorted(level, key=lambda name: (-level[name], name)):
        folder = ROOT / SCRIPTS if name == SCRIPTS else PACKAGE / name
        print(f"{level[name]:5}  {name:10} {lines(folder):6}  {', '.join(sorted(imports[name])) or '-'}")
    print(f"\nimport depth over packages, scripts included: {max(level.values())}\n")
    print("longest chain of modules inside each package")
    for name in sorted(level.keys() - {SCRIPTS}):
        chain = longest_chain(module_imports(name))
        print(f"{len(chain):5}  {name:10} {' -> '.join(chain)}")


if __name__ == "__main__":
    main()
