"""Makes Triton's interpreter several times faster."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def language_is_patched_once():
    """The interpreter patches Triton's language anew in every call of a function in a kernel, which
    takes most of its time. Here it does so once for each set of modules that a function sees."""
    try:
        from triton.runtime import interpreter
    except ImportError:
        yield
        return
    patch, scopes = interpreter._patch_lang, {}
    language = (interpreter.tl, interpreter.tl.core)

    class Patched:
        def restore(self):
            """Not before the end of all tests."""

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
