# SPDX-License-Identifier: Apache-2.0
"""Options of a pass, declared once as dataclass fields.

One declaration gives the command line, the documentation, validation, equality and the text form.
"""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from burnish.errors import InputError

_METADATA_KEY = "burnish.option"
_TRUE, _FALSE, _NONE = "true", "false", "none"


@dataclass(frozen=True)
class _Declared:
    help: str
    min: float | None
    max: float | None
    choices: tuple[str, ...] | None


@dataclass(frozen=True)
class Option:
    """One option of a pass, as read from its dataclass field.

    Attributes:
        name: Name in text; dashes and underscores are equal there.
        field: Field name: `name`, with an underscore behind it if it is a Python keyword.
        scalar: Type of one value: `bool`, `int`, `float` or `str`.
        repeated: The value is a tuple of `scalar`.
        nullable: The value may be None, written `none`.
        default: Value when the option is not given.
        help: One line for the user.
        min: Smallest number allowed, inclusive.
        max: Largest number allowed, inclusive.
        choices: The only strings allowed.
    """

    name: str
    scalar: type
    repeated: bool
    nullable: bool
    default: Any
    help: str
    min: float | None
    max: float | None
    choices: tuple[str, ...] | None
    field: str

    @property
    def type_text(self) -> str:
        """The type as shown to users, for example `float 0..1` or `one of a|b`."""
        return f"list of {self._item_text}" if self.repeated else self._item_text

    @property
    def _item_text(self) -> str:
        text = "one of " + "|".join(self.choices) if self.choices else self.scalar.__name__
        if self.min is not None or self.max is not None:
            low = "" if self.min is None else f"{self.min:g}"
            high = "" if self.max is None else f"{self.max:g}"
            text += f" {low}..{high}"
        return text

    def parse(self, words: Sequence[str]) -> Any:
        """Convert the comma-separated words of one option's text into its value.

        Raises:
            InputError: the words do not convert or are out of range.
        """
        if self.repeated:
            return tuple(self._parse_one(word) for word in words)
        if len(words) != 1:
            raise InputError(f"option {self.name!r} takes one value, got {len(words)}")
        if self.nullable and words[0] == _NONE:
            return None
        return self._parse_one(words[0])

    def format(self, value: Any) -> str:
        """Write a value so that `parse` reads it back."""
        if self.repeated:
            return ",".join(_format_one(item) for item in value)
        return _NONE if value is None else _format_one(value)

    def check(self, value: Any) -> None:
        """Check type, range and choice of a value.

        Raises:
            InputError: naming the option, the value and what is allowed.
        """
        if value is None and self.nullable:
            return
        if self.repeated and not isinstance(value, tuple):
            raise InputError(f"option {self.name!r} takes a tuple, got {value!r}")
        for item in value if self.repeated else (value,):
            self._check_one(item)

    def _parse_one(self, word: str) -> Any:
        try:
            if self.scalar is bool:
                return {_TRUE: True, _FALSE: False}[word.lower()]
            return self.scalar(word)
        except (ValueError, KeyError) as error:
            raise InputError(
                f"option {self.name!r}: {word!r} is not {_article(self._item_text)}"
            ) from error

    def _check_one(self, item: Any) -> None:
        accepted = (int, float) if self.scalar is float else (self.scalar,)
        if type(item) not in accepted:
            raise InputError(f"option {self.name!r}: {item!r} is not {_article(self._item_text)}")
        if self.choices is not None and item not in self.choices:
            raise InputError(f"option {self.name!r}: {item!r} is not {self._item_text}")
        too_low = self.min is not None and not item >= self.min  # "not >=" also refuses NaN
        too_high = self.max is not None and not item <= self.max
        if too_low or too_high:
            raise InputError(f"option {self.name!r}: {item!r} is outside {self._item_text}")


def option(
    default: Any,
    *,
    help: str,
    min: float | None = None,
    max: float | None = None,
    choices: Sequence[str] | None = None,
) -> Any:
    """Declare a field of a pass as an option; see `Option` for the meaning of the arguments."""
    declared = _Declared(help, min, max, None if choices is None else tuple(choices))
    return dataclasses.field(default=default, metadata={_METADATA_KEY: declared})


def same_as(pass_class: type, name: str) -> Any:
    """Declare a field as an option that another pass has: its default, help and limits.

    Raises:
        KeyError: `pass_class` has no field `name`.
    """
    declared = {field.name: field for field in dataclasses.fields(pass_class)}[name]
    return dataclasses.field(default=declared.default, metadata=declared.metadata)


def options_of(pass_class: type) -> tuple[Option, ...]:
    """Return the options a pass class declares, in order of declaration."""
    return tuple(
        _option(field, _hint(pass_class, field))
        for field in dataclasses.fields(pass_class)
        if _METADATA_KEY in field.metadata
    )


def _hint(pass_class: type, field: dataclasses.Field[Any]) -> Any:
    """Evaluate one annotation; the others, of class variables say, may name anything."""
    owner = next(
        base for base in pass_class.__mro__ if field.name in vars(base).get("__annotations__", ())
    )
    holder = types.SimpleNamespace(__annotations__={field.name: field.type})
    names = vars(sys.modules[owner.__module__]) if owner.__module__ in sys.modules else {}
    return typing.get_type_hints(holder, globalns=names)[field.name]


def _option(field: dataclasses.Field[Any], hint: Any) -> Option:
    declared: _Declared = field.metadata[_METADATA_KEY]
    nullable = False
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        members = [member for member in typing.get_args(hint) if member is not types.NoneType]
        nullable = len(members) < len(typing.get_args(hint))
        (hint,) = members
    repeated = typing.get_origin(hint) is tuple
    scalar = typing.get_args(hint)[0] if repeated else hint
    return Option(
        field.name.rstrip("_"),
        scalar,
        repeated,
        nullable,
        field.default,
        declared.help,
        declared.min,
        declared.max,
        declared.choices,
        field.name,
    )


def _format_one(value: Any) -> str:
    if isinstance(value, bool):
        return _TRUE if value else _FALSE
    text = repr(value) if isinstance(value, float) else str(value)
    plain = text and not any(c.isspace() or c in ',{}()"=\\' for c in text)
    if plain:
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _article(noun: str) -> str:
    return noun if noun.startswith(("one of", "list of")) else f"a valid {noun}"
