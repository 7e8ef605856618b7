"""How many updates follow the records that were collected. Imports no JAX."""


class TrainRatio:
    """How many updates follow a number of collected records.

    `ratio` is replayed steps per record; one update replays batch_size * batch_length of them. The first call grants one
    update and starts the count there, so that a warm-up is not caught up on.
    """

    def __init__(self, ratio: float, batch_size: int, batch_length: int) -> None:
        self.updates_per_record = ratio / (batch_size * batch_length)
        self.previous: float | None = None

    def __call__(self, records: int) -> int:
        """Updates due now that `records` have been collected over all environments."""
        if self.previous is None:
            self.previous = float(records)
            return 1
        due = int((records - self.previous) * self.updates_per_record)
        self.previous += due / self.updates_per_record
        return due
