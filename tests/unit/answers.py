"""Answers about Series of known content, for tests of result objects."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from node.core.model import InputRules, Model
from node.core.result import Identity
from node.core.volume import LabelMap
from node.dicom.assemble import stack
from node.dicom.results.answer import Answer
from node.dicom.series import SourceSeries
from tests.unit.test_seg import CREATED_AT, RULES, make_model

IDENTITY = Identity("input", "model")
