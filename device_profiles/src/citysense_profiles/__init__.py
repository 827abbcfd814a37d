"""The language that gateway, platform and simulator share: device profiles, their vocabulary and readings.

Everything others need stands here. This package imports nothing of ours, opens files only to load the catalogue, and
holds no state besides compiled profiles.
"""

from citysense_profiles.catalogue import Catalogue, load_catalogue
from citysense_profiles.codecs.contract import Named, Read, Write
from citysense_profiles.errors import DecodeError, EncodeError, ProfileError, SettingError
from citysense_profiles.profile import Profile, Setting
from citysense_profiles.reading import Decoded, Quality, ReadingClass, Sample, Value
from citysense_profiles.vocabulary import Metric, Vocabulary, load_vocabulary

__all__ = [
    "Catalogue",
    "DecodeError",
    "Decoded",
    "EncodeError",
    "Metric",
    "Named",
    "Profile",
    "ProfileError",
    "Quality",
    "Read",
    "ReadingClass",
    "Sample",
    "Setting",
    "SettingError",
    "Value",
    "Vocabulary",
    "Write",
    "load_catalogue",
    "load_vocabulary",
]
