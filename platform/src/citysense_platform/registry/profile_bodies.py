"""The JSON of profiles: what an installer has to know of one to register a device."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from citysense_profiles.profile import Profile


class ProfileBody(BaseModel):
    """A profile that devices can have."""

    id: str
    kind: str
    title: str
    transports: list[str]
    settings: dict[str, SettingBody]
    options: dict[str, OptionBody]


class SettingBody(BaseModel):
    """A parameter that an installer enters for one device, in `unit`."""

    title: str
    unit: str
    default: float | None
    required: bool
    low: float | None
    high: float | None


class OptionBody(BaseModel):
    """A choice between variants of the product. It is entered among the settings: `value` is what stands there."""

    title: str
    default: str | int
    choices: list[ChoiceBody]


class ChoiceBody(BaseModel):
    """One of an option's choices and what it means."""

    value: str | int
    title: str


def profile_body(profile: Profile) -> dict[str, Any]:
    """The JSON of a profile."""
    settings = {
        name: {
            "title": one.title,
            "unit": one.unit,
            "default": one.default,
            "required": one.required,
            "low": one.low,
            "high": one.high,
        }
        for name, one in profile.settings.items()
    }
    options = {
        name: {
            "title": option.title,
            "default": option.default,
            "choices": [{"value": value, "title": title} for value, title in option.choices.items()],
        }
        for name, option in profile.options.items()
    }
    return {
        "id": profile.id,
        "kind": profile.kind,
        "title": profile.title,
        "transports": sorted(profile.transports),
        "settings": settings,
        "options": options,
    }
