"""Start the command line by file path: `python .../trainer/__main__.py resume NAME`.

A host's extension folder may have any name and its Python may refuse `-m`, so the package is bound here from where
this file lies. Without this file a face could not start a training process of its own.
"""

import importlib.util
import sys
from pathlib import Path


def _bind_package() -> None:
    root = Path(__file__).resolve().parent.parent
    spec = importlib.util.spec_from_file_location(
        "mapo_studio", root / "__init__.py", submodule_search_locations=[str(root)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mapo_studio"] = module
    spec.loader.exec_module(module)
    # The folder of a script comes first on the path; its config.py and runs.py must not answer for other packages.
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != root / "trainer"]


if __name__ == "__main__":
    _bind_package()
    from mapo_studio.trainer.cli.main import main

    sys.exit(main())
