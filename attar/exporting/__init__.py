"""ONNX: fp32 and int8, compared with torch and measured before anything is written."""

from attar.exporting.comparison import Exported
from attar.exporting.onnx import export

__all__ = ["Exported", "export"]
