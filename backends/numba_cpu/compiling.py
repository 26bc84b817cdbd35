"""How the kernels are compiled, and kept between processes.

Owns Numba's options and cache. Numba notices that a kept kernel is stale by the file it is in, not by the files of the
helpers it calls; so every kernel here bears the mark of all sources of this folder. Numba keeps kernels beside the
sources where it can; those of an installed package are kept elsewhere, for its installer would not remove them.

A helper is typed and lowered by Numba, and optimised and made machine code only within the kernels that call it: by
itself it is never run. That takes a third of the time that Numba's own way takes, which compiles every helper alone,
once more into each helper that calls it, and once more into the kernel.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from pathlib import Path
from typing import Any

from numba import config, njit
from numba.core import codegen, compiler, typed_passes
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.compiler_machinery import register_pass
from numba.core.registry import CPUDispatcher

from blocksim.errors import BlocksimWarning, MissingLibraryError

from .threads import share

if config.DISABLE_JIT:  # type: ignore[attr-defined]
    raise MissingLibraryError(
        "backend 'numba': expected Numba's compiler; found it switched off by NUMBA_DISABLE_JIT (unset that, or use "
        "backend='numpy')"
    )

# IEEE arithmetic: no fastmath, so nothing is contracted or reordered; division by zero gives infinity, not a branch.
# No reference counts: kernels allocate nothing, and their caller holds every array. Counting them, by atomic operations
# that the compiler does not remove from helpers, took a third of an adjoint's time.
OPTIONS: dict[str, Any] = {"error_model": "numpy", "nogil": True, "no_cfunc_wrapper": True, "_nrt": False}

LOGGER = logging.getLogger("blocksim")
NO_FOLDER = "no folder can be written to (set NUMBA_CACHE_DIR)"


def folder_mark(folder: Path) -> str:
    """A digest of the sources in a folder."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.py")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


MARK = folder_mark(Path(__file__).parent)


def is_installed(file: Path) -> bool:
    """Whether an installer put this file where it is, and not a checkout."""
    return not {"site-packages", "dist-packages"}.isdisjoint(file.parts)


class _NotRun:
    """Takes the place of the engine for a function that is never called by itself."""

    def set_env(self, name: str, environment: Any) -> None:
        """Nothing to set: the function has no machine code of its own."""


class _HelperLibrary(codegen.JITCodeLibrary):
    """LLVM code that is linked into kernels, and optimised there."""

    codegen = _NotRun()

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        return 0


@register_pass(mutates_CFG=True, analysis_only=False)
class _HelperLowering(typed_passes.NativeLowering):
    _name = "helper_lowering"

    def run_pass(self, state: Any) -> bool:
        state.library = _HelperLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        return bool(super().run_pass(state))


class _HelperCompiler(compiler.CompilerBase):
    """Numba's compiler, but for the last step."""

    def define_pipelines(self) -> list[Any]:
        manager = compiler.DefaultPassBuilder.define_nopython_pipeline(self.state)
        manager.passes = [
            (_HelperLowering if step is typed_passes.NativeLowering else step, why) for step, why in manager.passes
        ]
        manager.finalize()
        return [manager]


class _ElsewhereCacheImpl(CompileResultCacheImpl):
    """Numba's choice of a folder, but for the one beside the sources.

    What lies there and no installer knows of stays when the package is uninstalled; the folders around it are then a
    namespace package of its name, which is found before an editable installation.
    """

    def __init__(self, function: Any) -> None:
        # told by a part of their names, for all had an underscore before them in Numba 0.61
        self._locator_classes = [each for each in self._locator_classes if "InTree" not in each.__name__]
        super().__init__(function)


class _KernelCache(FunctionCache):
    """Compiled kernels on disk; where they cannot be read or kept, kernels are compiled and the call continues."""

    _impl_class = _ElsewhereCacheImpl if is_installed(Path(__file__)) else CompileResultCacheImpl

    def __init__(self, function: Any, mark: str) -> None:
        self.kept = True
        self.why_not = ""
        self.kernel = function.__name__
        try:
            super().__init__(function)
        except RuntimeError as error:  # no folder that Numba may write to, or it does not know what it is told to try
            self.kept = False
            named = "NUMBA_CACHE_LOCATOR_CLASSES" in str(error)
            self.why_not = f"{error} (correct it, or unset it)" if named else NO_FOLDER
            return
        # Numba offers no public way to say what a kept kernel depends on; a test shows that this one works
        self._cache_file._source_stamp = mark

    @property
    def cache_path(self) -> str | None:
        """The folder; None where nothing is kept."""
        return str(super().cache_path) if self.kept else None

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The kept kernel for these types, or None."""
        found = None
        if self.kept:
            try:
                found = super().load_overload(sig, target_context)
            except Exception as error:  # a damaged file may raise anything
                LOGGER.info("compiled kernels in %s cannot be read (%s)", self.cache_path, error)
                self._drop()
        if found is None:
            _tell(self.kernel, str(sig), self.cache_path)
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a kernel, where that is possible."""
        if self.kept:
            try:
                super().save_overload(sig, data)
                return
            except OSError as error:
                self.kept = False
                self.why_not = f"{self._cache_path}: {error.strerror or error} (set NUMBA_CACHE_DIR)"
        _warn_once(f"compiled kernels are not kept, and every process compiles them anew: {self.why_not}")

    def _drop(self) -> None:
        try:
            self.flush()
        except OSError:
            self.kept = False


_announced: set[str] = set()


def _tell(kernel: str, signature: str, folder: str | None) -> None:
    """Say what is compiled, for it takes seconds: once for each precision, and in detail to those who ask."""
    kind = next((kind for kind in ("float32", "float64") if kind in signature), "spikes")
    if kind not in _announced:
        _announced.add(kind)
        where = f"once, and keeping them in {folder}" if folder else "for this process"
        LOGGER.info("compiling kernels for %s, %s", kind, where)
    LOGGER.debug("compiling %s for %s", kernel, kind)


_warned = False


def _warn_once(message: str) -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(message, BlocksimWarning, stacklevel=2)


class Kernel:
    """A compiled function of a range of items of work; a call shares the items among threads."""

    def __init__(self, function: Any, mark: str) -> None:
        self.dispatcher = njit(**OPTIONS)(function)
        self.dispatcher._cache = _KernelCache(function, mark)
        self.__doc__ = function.__doc__
        self.name = function.__name__

    def __call__(self, items: int, *arguments: Any) -> None:
        """Compute the items 0 .. items - 1."""
        share(self.dispatcher, items, arguments)

    @property
    def cache_path(self) -> str | None:
        """The folder in which this kernel is kept; None where it is not."""
        return self.dispatcher._cache.cache_path  # type: ignore[no-any-return]

    @property
    def why_not_kept(self) -> str:
        """Why there is none."""
        return self.dispatcher._cache.why_not  # type: ignore[no-any-return]


class _Helper(CPUDispatcher):
    """A function for kernels to call."""

    def __call__(self, *arguments: Any) -> None:
        raise TypeError(f"{self.py_func.__name__} has no machine code of its own: it is called by kernels only")


def helper(function: Any, **options: Any) -> Any:
    """Compile a function that kernels call."""
    options = {"pipeline_class": _HelperCompiler, "no_cpython_wrapper": True, **OPTIONS, **options}
    dispatcher = njit(**options)(function)
    dispatcher.__class__ = _Helper
    return dispatcher


def inlined(function: Any) -> Any:
    """Compile a function into the inner loops that call it: a call costs more than what it does."""
    return helper(function, forceinline=True)


def kernel(function: Any, mark: str = MARK) -> Kernel:
    """Compile a function (first, last, slot, ...) that computes the items first .. last - 1 of its work.

    `slot` numbers the scratch memory that it may use. Kernels are kept between processes.
    """
    return Kernel(function, mark)
