"""What can go wrong, as one tree.

    FrostlineError
    ├── InputError          exit code 2: the user can mend it, and the message says how
    │   ├── DataError         a folder, table or array that cannot be used
    │   │   └── LabelError      its labels
    │   ├── BackboneError     a network that is unknown or cannot be built
    │   │   └── WeightsError    its pre-trained weights: missing, unsafe or of another shape
    │   ├── CutError          a depth or a layer that the network does not have
    │   ├── PlanError         a plan that contradicts itself or its network
    │   ├── OptionError       a flag, a configuration key or a budget
    │   └── RunError          a run directory: taken, absent or damaged
    └── RunFailed           exit code 1: the run could not go on
        ├── FrozenMoved       something frozen changed: the result would be a lie
        └── StoreError        something stored: damaged, or the disk is full; exit code 2, since the user can make room

Every message names the offending value, what is allowed, and the remedy.
"""


class FrostlineError(Exception):
    """The root: whatever Frostline raises on purpose."""

    exit_code = 1


class InputError(FrostlineError):
    """Something the user gave cannot be used as it is."""

    exit_code = 2


class DataError(InputError):
    """The data cannot be read or is too little."""


class LabelError(DataError):
    """The labels cannot be learned from."""


class BackboneError(InputError):
    """The network is unknown or cannot be built."""


class WeightsError(BackboneError):
    """The pre-trained weights are missing, unsafe to read, or belong to another network."""


class CutError(InputError):
    """The network cannot be sawn there."""


class PlanError(InputError):
    """A plan contradicts itself or the network it is for."""


class OptionError(InputError):
    """A flag, a configuration key or a budget has no usable value."""


class RunError(InputError):
    """A run directory is taken, absent or damaged."""


class RunFailed(FrostlineError):
    """The run could not go on, through no fault of the input."""


class FrozenMoved(RunFailed):
    """A frozen parameter or buffer is not what it was before training."""


class StoreError(RunFailed):
    """Something stored cannot be written, or is not what was written."""

    exit_code = 2
