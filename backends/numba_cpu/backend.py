from blocksim.backend import Backend


class NumbaBackend(Backend):
    pass
