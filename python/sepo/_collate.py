"""Rows of a scored dataset to padded batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    import torch

_SIDES = ("chosen", "rejected")


class Batch(TypedDict):
    """What a `Collator` makes of `B` pairs, padded on the right to `T` tokens.

    Row ``i`` is pair ``i`` with its chosen response, row ``B + i`` the same pair with its rejected one: the order of
    TRL's ``DataCollatorForPreference``.
    """

    input_ids: torch.Tensor
    """``[2 B, T]`` int64: prompt and response."""
    attention_mask: torch.Tensor
    """``[2 B, T]`` int64: 1 on tokens, 0 on padding."""
    completion_mask: torch.Tensor
    """``[2 B, T]`` int64: 1 on the tokens of the response that are the assistant's."""
    weights: torch.Tensor
    """``[2 B, T]`` float32: a token's weight in the loss; 0 off the response. For masks 1 on key tokens, else 0."""


@dataclass(frozen=True)
class Collator:
    """Callable for ``collate_fn`` of a ``DataLoader`` and ``data_collator`` of a ``Trainer``; see `collator`."""

    pad_token_id: int
    weights: str
    pad_to_multiple_of: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        import torch

        sequences = [self._sequence(row, side) for side in _SIDES for row in rows]
        longest = max((len(ids) for ids, _, _ in sequences), default=0)
        width = -(-longest // self.pad_to_multiple_of) * self.pad_to_multiple_of
        shape = (len(sequences), width)
        batch = Batch(
            input_ids=torch.full(shape, self.pad_token_id),
            attention_mask=torch.zeros(shape, dtype=torch.int64),
            completion_mask=torch.zeros(shape, dtype=torch.int64),
            weights=torch.zeros(shape),
        )
        for index, (ids, completion, weights) in enumerate(sequences):
            batch["input_ids"][index, : len(ids)] = torch.tensor(ids)
            batch["attention_mask"][index, : len(ids)] = 1
            first = len(ids) - len(weights)
            batch["completion_mask"][index, first : len(ids)] = torch.tensor(completion, dtype=torch.int64)
            batch["weights"][index, first : len(ids)] = torch.tensor(weights, dtype=torch.float32)
        return batch

    def _sequence(self, row: Mapping[str, Any], side: str) -> tuple[list[int], list[int], list[float]]:
        """Ids of prompt and response; completion mask and weights of the response."""
        response = _column(row, f"{side}_ids")
        weights = _column(row, f"{side}_{self.weights}")
        # Rows of ids that came from elsewhere need not know whose the tokens are.
        assistant = row.get(f"{side}_assistant_mask")
        completion = [1] * len(response) if assistant is None else list(assistant)
        for name, values in [(f"{side}_{self.weights}", weights), (f"{side}_assistant_mask", completion)]:
            if len(values) != len(response):
                message = f"{_name(row)}: {name} has {len(values)} values, {side}_ids has {len(response)}"
                raise ValueError(f"{message}; both come from one run of `sepo`")
        return [*_column(row, "prompt_ids"), *response], completion, weights


def collator(pad_token_id: int, *, weights: str = "key_mask", pad_to_multiple_of: int = 1) -> Collator:
    """A function from rows of a scored dataset to a padded `Batch` of PyTorch tensors.

    Parameters
    ----------
    pad_token_id
        Stands where a row has no token; any id of the vocabulary, since ``attention_mask`` hides it.
    weights
        The columns ``{side}_<weights>`` that become ``weights``: ``key_mask``, ``key_mask_<name>`` of a further mask,
        or values such as ``token_rewards``.
    pad_to_multiple_of
        The width of a batch is a multiple of this.

    Returns
    -------
    Collator
        Raises ``KeyError`` for a column that is not there and ``ValueError`` for lists that do not fit one another,
        with the row's id.
    """
    if pad_to_multiple_of < 1:
        raise ValueError(f"pad_to_multiple_of is {pad_to_multiple_of}; give 1 or more")
    return Collator(pad_token_id, weights, pad_to_multiple_of)


def _column(row: Mapping[str, Any], name: str) -> list[Any]:
    values: Iterable[Any] | None = row.get(name)
    if values is None:
        raise KeyError(f"{_name(row)} has no {name}; it has {', '.join(row)}")
    return list(values)


def _name(row: Mapping[str, Any]) -> str:
    return f"row {row['row_id']}" if "row_id" in row else "a row"
