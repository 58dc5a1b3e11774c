"""A whole, local stand-in for a model that FSDP2 (``fully_shard``) spread over processes.

A sharded model cannot be measured as it is: each of its forward passes gathers weights from
all processes, so processes that measure different images would wait for each other for ever.
Its stand-in holds whole weights, runs without communication, and shares nothing with it that
a forward pass writes.
"""

from __future__ import annotations

import copy
import functools
import random
import types
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .errors import InputError

# Where fully_shard and its kin live: torch 2.6 and later, torch 2.4 and 2.5, the replicate()
# that is built on it. Compared as text, so that nothing of it is imported for a plain model.
_FSDP2 = (
    "torch.distributed.fsdp._fully_shard",
    "torch.distributed._composable.fsdp",
    "torch.distributed._composable.replicate",
)
_M = TypeVar("_M", bound=nn.Module)


def is_sharded(model: nn.Module) -> bool:
    """Whether the model's weights are spread over processes, so that no process can run it alone.

    True for ``fully_shard`` (also over one process), and for what :func:`check` refuses: FSDP1
    and other parameters that are DTensors. Imports nothing and communicates nothing.

    >>> is_sharded(nn.Linear(2, 2))
    False
    """
    return any(_is_fsdp2(module) or _is_fsdp1(module) for module in model.modules()) or any(
        _is_dtensor(parameter) for parameter in model.parameters()
    )


def check(model: nn.Module) -> None:
    """Refuse what :func:`gathered` cannot stand in for. Communicates nothing.

    Raises:
        InputError: FSDP1, tensor parallelism, or classes changed after ``fully_shard``.
    """
    for name, module in model.named_modules():
        where = f"{name!r}" if name else "the model"
        if _is_fsdp1(module):
            raise InputError(
                "sharded model: expected one sharded by torch.distributed.fsdp.fully_shard "
                f"(FSDP2), got FullyShardedDataParallel (FSDP1) at {where}; move to fully_shard, "
                "or gather a full copy and measure that"
            )
        plain_class(type(module), where)
    managed = _sharded_parameters(model.modules())
    for module_name, module in model.named_modules():
        for name, parameter in module._parameters.items():
            owner = managed.get((id(module), name))
            if owner is None and _is_dtensor(parameter):
                if getattr(module, "_is_fsdp_managed_module", False):
                    raise InputError(
                        "sharded model: expected the module that fully_shard was given, got a "
                        f"part of it: {module_name or type(module).__name__!r} belongs to an outer "
                        "module's shards; pass the outer module"
                    )
            elif not getattr(owner, "is_dtensor", False):
                continue
            raise InputError(
                "sharded model: expected parameters that fully_shard alone spread, got "
                f"{'.'.join(filter(None, (module_name, name)))!r} as a DTensor of another kind "
                "(tensor parallelism), whose layers talk to other processes in every forward "
                "pass; gather a full copy and measure that"
            )


def gathered(model: nn.Module) -> nn.Module:
    """A plain copy of a sharded model, with whole parameters, that runs on this process alone.

    Every process of the model's mesh must call this at the same point of its program: it
    gathers each parameter once, in the order of the model's modules, and does nothing else
    that communicates. Afterwards each process may use its copy as it likes, or not at all.

    The copy has the model's module names, ordinary classes in place of those that
    ``fully_shard`` makes, and its own buffers (those of this process), modes, ties,
    parametrizations and hooks, without FSDP's. Parameters have the dtype they are optimised
    in: a mixed-precision policy belongs to training and is left out, as autocast is elsewhere
    in measurements. Submodules in ``torch.compile`` keep their names and run eagerly.

    The model is only read: sharded or unsharded state, gradients, buffers, hooks and random
    states stay as they are. It costs the memory of one whole model on each process until
    :func:`release`.

    Not followed: a reference to one of the model's modules from within an object within an
    object (anything but modules, containers, methods, partials, closures) still leads to the
    sharded original.

    Args:
        model: a model for which :func:`is_sharded` holds; a wrapper around it
            (``torch.compile``, data parallel) is left off.

    Raises:
        InputError: see :func:`check`; raised before anything is communicated.
    """
    check(model)
    with torch.inference_mode(False), torch.no_grad():
        # All that can fail on its own comes first: a process that raised here while the
        # others gather would leave them waiting.
        copier = _Copier(_unwrapped(model), _sharded_parameters(model.modules()))
        copier.gather()
    return copier.result


def _unwrapped(model: nn.Module) -> nn.Module:
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(inner := model._modules.get("_orig_mod"), nn.Module):
            model = inner
        else:
            return model


def release(stand_in: nn.Module) -> None:
    """Free the memory of a stand-in's parameters and buffers now, whoever still refers to it.

    A module that refers to itself (a method kept as an attribute) would otherwise hold a whole
    model until Python's next full garbage collection.
    """
    for tensor in [*stand_in.parameters(), *stand_in.buffers()]:
        if not (is_lazy(tensor) or tensor.is_meta):
            tensor.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
            tensor.grad = None


def plain_class(cls: type[_M], where: str = "the model") -> type[_M]:
    """The class that a module had before ``fully_shard``.

    Raises:
        InputError: one derived from the class that ``fully_shard`` made: its methods cannot be
            moved to another base.
    """
    if not _is_fsdp2_class(cls):
        return cls
    # fully_shard makes type("FSDPName", (FSDPModule, Name), …); FSDPModule is no nn.Module.
    marks = [base for base in cls.__bases__ if _is_fsdp2_class(base)]
    rest = [base for base in cls.__bases__ if base not in marks]
    if len(marks) != 1 or issubclass(marks[0], nn.Module) or len(rest) != 1:
        raise InputError(
            f"sharded model: expected fully_shard to come last, got {where} as {cls.__name__}, a "
            "class made from a sharded one; register parametrizations and the like before "
            "fully_shard"
        )
    plain: type[_M] = rest[0]
    return plain


def _is_fsdp2_class(cls: type) -> bool:
    return any(
        base.__name__ == "FSDPModule" and base.__module__.startswith("torch.distributed.")
        for base in cls.__mro__
    )


def _is_fsdp2(module: nn.Module) -> bool:
    return _is_fsdp2_class(type(module))


def _is_fsdp1(module: nn.Module) -> bool:
    return any(base.__name__ == "FullyShardedDataParallel" for base in type(module).__mro__)


def _is_dtensor(value: Any) -> bool:
    return isinstance(value, Tensor) and hasattr(value, "device_mesh")


def _sharded_parameters(modules: Iterable[nn.Module]) -> dict[tuple[int, str], Any]:
    """FSDP2's own record of each parameter it holds, by ``(id(module), name)``.

    The parameters that a module shows will not do: between forward and backward, and after an
    evaluation pass with ``reshard_after_forward=False``, they are whole ones in the reduced
    precision of the policy, that the next optimizer step leaves out of date.
    """
    found: dict[tuple[int, str], Any] = {}
    for module in modules:
        if not _is_fsdp2(module):
            continue
        try:
            state = module._get_fsdp_state()  # type: ignore[operator]
            groups = getattr(state, "_fsdp_param_groups", None)  # several since torch 2.11
            if groups is None:
                groups = [state._fsdp_param_group] if state._fsdp_param_group is not None else []
            for parameter in [p for group in groups for p in group.fsdp_params]:
                info = parameter._module_info
                modules_of = [info.module, *info.shared_modules]
                for owner, name in zip(
                    modules_of, [info.param_name, *info.shared_param_names], strict=True
                ):
                    found[id(owner), name] = parameter
                _ = parameter.sharded_param
        except AttributeError as error:
            raise InputError(
                "sharded model: expected the fully_shard of a torch from 2.4 on, got torch "
                f"{torch.__version__}, whose records read otherwise ({error}); gather a full copy "
                "and measure that"
            ) from error
    return found


_ATOMS = (type(None), bool, int, float, complex, str, bytes, type, types.BuiltinFunctionType)
_CONTAINERS = (list, tuple, dict, set, frozenset, deque)
_EXACT = {list, tuple, dict, OrderedDict, defaultdict, deque}
_HOOKS = (
    "_backward_hooks",
    "_backward_pre_hooks",
    "_forward_hooks",
    "_forward_pre_hooks",
    "_load_state_dict_post_hooks",
    "_load_state_dict_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
)
# FSDP2's marks for the compiler, and code compiled for the original.
_DROPPED = {"_is_fsdp_managed_module", "_fsdp_use_orig_params", "_compiled_call_impl"}
_COMPOSABLE = "__composable_api_state_key"  # followed by a random suffix


class _Uncompiled(nn.Module):
    """In place of a ``torch.compile`` wrapper inside the model: its names, run eagerly."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._modules["_orig_mod"](*args, **kwargs)  # type: ignore[misc]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._modules["_orig_mod"], name)


class _Copier:
    """Copies a module tree, then fills in the parameters that were spread over processes.

    The copy is our own rather than ``copy.deepcopy``'s, which FSDP2 forbids for its classes,
    fails on what many modules hold (results with a graph, process groups, locks) and would
    drag along all that a module refers to: a Lightning module's trainer, with its loaders and
    the optimizer's state. Building the model anew on the meta device would need its
    constructor's arguments and miss what was changed since; ``torch.func.functional_call`` on
    the original would run FSDP's hooks and write into its attributes.

    So each module becomes a new object of its plain class, and each of its attributes is
    copied as far as it can lead back to the model: tensors, containers, methods, partials,
    closures, and objects that hold a module. Anything else is shared.
    """

    def __init__(self, model: nn.Module, managed: dict[tuple[int, str], Any]) -> None:
        # Originals are kept beside their copies: an id is unique only while its object lives.
        self._known: dict[int, tuple[Any, Any]] = {}
        self._unfilled: deque[tuple[nn.Module, nn.Module]] = deque()
        self._to_gather: list[tuple[Tensor, Tensor]] = []
        self._managed = managed
        # In registration order, which all processes share and so gather in.
        for module in model.modules():
            self._module(module)
        while self._unfilled:
            self._fill(*self._unfilled.popleft())
        self.result: nn.Module = self._copy(model)

    def gather(self) -> None:
        """The collective part: each sharded tensor once."""
        for sharded, whole in self._to_gather:
            whole.data = _whole(sharded)
        self._to_gather.clear()

    def _remember(self, original: Any, new: Any) -> Any:
        self._known[id(original)] = (original, new)
        return new

    def _module(self, original: nn.Module) -> nn.Module:
        if id(original) in self._known:
            new: nn.Module = self._known[id(original)][1]
            return new
        if isinstance(original, torch.jit.ScriptModule):  # lives in C++
            script: nn.Module = self._remember(original, copy.deepcopy(original))
            return script
        cls = plain_class(type(original), type(original).__name__)
        if any(base.__name__ == "OptimizedModule" for base in cls.__mro__):
            shell: nn.Module = _Uncompiled()
        else:
            # Without __init__, whose arguments are not known.
            shell = object.__new__(cls)
        self._managed.update(_sharded_parameters([original]))  # of modules not registered
        # Filled later, from a queue: models may nest deeper than Python's stack.
        self._unfilled.append((original, shell))
        self._remember(original, shell)
        return shell

    def _fill(self, original: nn.Module, new: nn.Module) -> None:
        wrapper = isinstance(new, _Uncompiled)
        for name, value in vars(original).items():
            if name in _DROPPED or (wrapper and name not in vars(new)):
                continue
            if name == "_parameters":
                vars(new)[name] = {
                    key: self._parameter(original, key, parameter)
                    for key, parameter in value.items()
                }
            elif name in _HOOKS:
                vars(new)[name] = type(value)(
                    (key, self._copy(hook)) for key, hook in value.items() if not _from_fsdp2(hook)
                )
            elif name.startswith(_COMPOSABLE):
                # Two dicts: states by function, and the names of what was applied.
                kept = {
                    key: self._copy(state)
                    for key, state in value.items()
                    if not isinstance(key, str) and not _from_fsdp2(key)
                }
                if kept:
                    vars(new)[name] = kept
            else:
                vars(new)[name] = self._copy(value)
        if wrapper:
            new.training = original.training

    def _parameter(self, module: nn.Module, name: str, parameter: Tensor | None) -> Any:
        managed = self._managed.get((id(module), name))
        if managed is None or parameter is None:
            return self._copy(parameter)
        sharded = managed.sharded_param
        new = self._tensor(sharded)
        new.requires_grad_(parameter.requires_grad)
        # Recurrent layers list their parameters a second time, in whatever state they are.
        for other in (parameter, getattr(managed, "_unsharded_param", sharded)):
            self._remember(other, new)
        return new

    def _tensor(self, original: Tensor) -> Tensor:
        if id(original) in self._known:
            known: Tensor = self._known[id(original)][1]
            return known
        if is_lazy(original):
            new: Tensor = copy.deepcopy(original)
        elif _is_dtensor(original):
            shape = original.shape if original.is_meta else (0,)
            new = torch.empty(shape, dtype=original.dtype, device=original.device)
        elif _is_freed(original):
            return original
        else:
            new = original.detach().clone()
        if isinstance(original, nn.Parameter) and not isinstance(new, nn.Parameter):
            new = nn.Parameter(new, requires_grad=original.requires_grad)
        if _is_dtensor(original) and not original.is_meta:
            self._to_gather.append((original, new))
        self._remember(original, new)
        return new

    def _copy(self, value: Any) -> Any:
        if isinstance(value, _ATOMS):
            return value
        if id(value) in self._known:
            return self._known[id(value)][1]
        if isinstance(value, nn.Module):
            return self._module(value)
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, _CONTAINERS):
            return self._container(value)
        if isinstance(value, types.MethodType):
            return self._method(value)
        if isinstance(value, (torch.Generator, random.Random)) or (
            type(value).__module__.partition(".")[0] == "numpy"
        ):
            # A forward pass draws from them, or writes into them.
            return self._remember(value, _duplicate(value))
        if not _leads_to_module(value):
            return value
        if isinstance(value, weakref.ref):
            return weakref.ref(self._copy(value()))
        if isinstance(value, types.FunctionType):
            # torch.compile on a method or function: run eagerly.
            inner = vars(value).get("_torchdynamo_orig_callable")
            return self._function(value) if inner is None else self._copy(inner)
        if isinstance(value, functools._lru_cache_wrapper):
            cache = functools.lru_cache(**value.cache_parameters())
            return self._remember(value, cache(self._copy(value.__wrapped__)))
        if isinstance(value, functools.partial):
            new = functools.partial(
                self._copy(value.func), *self._copy(value.args), **self._copy(value.keywords)
            )
            vars(new).update(vars(value))
            return self._remember(value, new)
        return self._object(value)

    def _object(self, value: Any) -> Any:
        try:
            new = copy.copy(value)
        except Exception as error:
            raise InputError(
                "sharded model: expected objects that hold a submodule to be copyable, got "
                f"{type(value).__name__}, which is not ({error}); give it a __copy__"
            ) from error
        if new is value:
            return value
        self._remember(value, new)
        for name, item in vars(value).items():
            vars(new)[name] = self._copy(item)
        return new

    def _container(self, value: Any) -> Any:
        if isinstance(value, (set, frozenset)):
            return self._set(value)
        if type(value) not in _EXACT and not _leads_to_module(value):
            # A class of somebody's own, say a configuration.
            return value
        if isinstance(value, tuple):
            items = [self._copy(item) for item in value]
            make = getattr(type(value), "_make", tuple)  # a named tuple's
            return self._remember(value, make(items))
        # Empty first: a container may hold itself.
        new = self._remember(value, copy.copy(value))
        new.clear()
        if isinstance(value, dict):
            for key, item in value.items():
                new[self._copy(key)] = self._copy(item)
        else:
            new.extend(self._copy(item) for item in value)
        return new

    def _set(self, value: Any) -> Any:
        # A set's order differs among processes, and with it the order of gathering.
        for item in value:
            if isinstance(item, nn.Module) and id(item) not in self._known and is_sharded(item):
                raise InputError(
                    "sharded model: expected sharded submodules to be registered or in a list, "
                    f"got {type(item).__name__} in a set; keep it in a list"
                )
        return self._remember(value, type(value)(self._copy(item) for item in value))

    def _method(self, value: types.MethodType) -> Any:
        function = value.__func__
        if _from_fsdp2(function):
            # register_fsdp_forward_method: gathers weights around the user's method.
            return self._copy(getattr(function, "__wrapped__", function))
        owner, body = self._copy(value.__self__), self._copy(function)
        if owner is value.__self__ and body is function:
            return value
        return types.MethodType(body, owner)

    def _function(self, value: types.FunctionType) -> Any:
        cells = tuple(
            types.CellType() if _leads_to_module(cell) else cell for cell in value.__closure__ or ()
        )
        new = types.FunctionType(
            value.__code__, value.__globals__, value.__name__, closure=cells or None
        )
        self._remember(value, new)
        for cell, old in zip(cells, value.__closure__ or (), strict=True):
            if cell is not old:
                cell.cell_contents = self._copy(old.cell_contents)
        new.__defaults__ = self._copy(value.__defaults__)
        new.__kwdefaults__ = self._copy(value.__kwdefaults__)
        vars(new).update(vars(value))
        return new


def _leads_to_module(value: Any, objects: int = 1, seen: set[int] | None = None) -> bool:
    """Whether a module is within reach through containers, callables, and one other object.

    Through one only: whatever belongs to a training run leads to its model in the end.
    """
    seen = set() if seen is None else seen
    if isinstance(value, _ATOMS) or id(value) in seen:
        return False
    if isinstance(value, nn.Module):
        return True
    seen.add(id(value))
    inner: Any
    if isinstance(value, dict):
        inner = [*value.keys(), *value.values()]
    elif isinstance(value, _CONTAINERS):
        inner = list(value)
    elif isinstance(value, weakref.ref):
        inner = [value()]
    elif isinstance(value, types.MethodType):
        inner = [value.__self__, value.__func__]
    elif isinstance(value, functools.partial):
        inner = [value.func, value.args, value.keywords]
    elif isinstance(value, types.FunctionType):
        inner = [value.__closure__, value.__defaults__, value.__kwdefaults__]
    elif isinstance(value, types.CellType):
        try:
            inner = [value.cell_contents]
        except ValueError:  # empty
            return False
    elif objects and hasattr(value, "__dict__") and not _is_shared(value):
        inner, objects = list(vars(value).values()), objects - 1
    else:
        return False
    return any(_leads_to_module(item, objects, seen) for item in inner)


def _is_shared(value: Any) -> bool:
    """Modules of Python, tensors, and torch's own objects: optimizers, process groups."""
    if isinstance(value, (types.ModuleType, Tensor)):
        return True
    home = type(value).__module__
    return home.partition(".")[0] == "torch" and not home.startswith(("torch.nn", "torch.utils"))


def _from_fsdp2(hook: Any) -> bool:
    """Whether a hook, a function or a method was put there by FSDP2."""
    while True:
        if isinstance(hook, functools.partial):
            hook = hook.func
        elif type(hook).__name__ == "_WrappedHook":
            hook = hook.hook
        else:
            break
    function: Any = getattr(hook, "__func__", hook)
    # Some are wrapped as the user's function: then only their globals tell.
    homes = (
        getattr(function, "__module__", None),
        getattr(function, "__globals__", {}).get("__name__"),
    )
    return any(isinstance(home, str) and home.startswith(_FSDP2) for home in homes)


def _is_freed(tensor: Tensor) -> bool:
    """Whether FSDP2 took the storage away under this tensor (a kept view of a whole weight)."""
    try:
        return tensor.numel() > 0 and not tensor.is_meta and tensor.untyped_storage().nbytes() == 0
    except (NotImplementedError, RuntimeError):  # no storage of its own: sparse, quantised
        return False


def _duplicate(value: Any) -> Any:
    if isinstance(value, torch.Generator):
        return torch.Generator(value.device).set_state(value.get_state())
    return copy.deepcopy(value)


def _whole(sharded: Any) -> Tensor:
    """The whole of a DTensor as an ordinary contiguous tensor of its own. A collective."""
    sharded = sharded.detach()
    device_type = sharded.device_mesh.device_type
    if sharded.device.type != device_type:  # CPU offload: gathered where it computes
        sharded = sharded.to(device_type)
    local, whole = sharded.to_local(), sharded.full_tensor()
    whole = whole.wait() if hasattr(whole, "wait") else whole
    # Where this process holds all of it, torch gives back the original's own memory.
    if whole.untyped_storage().data_ptr() == local.untyped_storage().data_ptr():
        whole = whole.clone()
    tensor: Tensor = whole.contiguous()
    return tensor
