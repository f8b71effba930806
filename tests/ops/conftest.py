"""Makes Triton's interpreter several times faster."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def language_is_patched_once():
    """Patches Triton's language once for each set of modules that a function sees. The interpreter
    does so in every call of a function in a kernel, which takes most of its time."""
    try:
        from triton.runtime import interpreter
    except ImportError:
        yield
        return
    patch, scopes = interpreter._patch_lang, {}
    language = (interpreter.tl, interpreter.tl.core)

    class Patched:
        def restore(self):
            """Waits for the end of all tests."""

    def patch_once(function):
        seen = tuple(any(v is module for v in function.__globals__.values()) for module in language)
        if seen not in scopes:
            scopes[seen] = patch(function)
        return Patched()

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(interpreter, "_patch_lang", patch_once)
        yield
    for scope in reversed(scopes.values()):
        scope.restore()
