"""ONNX: fp32 and int8, compared with torch and measured before anything is written."""

from attar.export.comparing import Exported
from attar.export.onnx import export

__all__ = ["Exported", "export"]
