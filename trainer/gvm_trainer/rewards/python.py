"""The `python` reward: a function of the user's, named "package.module:function"."""

import importlib
from collections.abc import Callable

_FIX = 'write "package.module:function", with the package on PYTHONPATH'


class PythonReward:
    """Calls function(completion, answer), which returns a float or a bool.

    It travels between processes as its path, so that anything callable will do; a worker imports the module
    as it starts, outside any sample's time.

    Raises:
        ValueError: the path is missing, cannot be imported, or names nothing that can be called.
    """

    def __init__(self, path: str | None) -> None:
        if path is None:
            raise ValueError(f"reward.function: missing; type python needs one: {_FIX}")
        self._path = path
        self._function = _resolve(path)

    def __reduce__(self) -> tuple[type["PythonReward"], tuple[str]]:
        return PythonReward, (self._path,)

    def __call__(self, completion: str, answer: str) -> object:
        """Score one completion."""
        return self._function(completion, answer)


def _resolve(path: str) -> Callable[[str, str], object]:
    module_name, _, function_name = path.partition(":")
    if not module_name or not function_name:
        raise ValueError(f"reward.function: {path!r} names no function; {_FIX}")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a user's module may raise anything while it is imported
        raise ValueError(
            f"reward.function: {module_name!r} in {path!r} cannot be imported ({type(error).__name__}: {error}); {_FIX}"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ValueError(f"reward.function: {module_name!r} has no function {function_name!r}; {_FIX}")
    return function  # type: ignore[no-any-return]  # what it returns is checked at each call
