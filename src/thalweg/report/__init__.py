"""The report of a run: one HTML file that works offline and can be sent to a colleague."""

from thalweg.report.data import Confidence, Minimum, Move, Progress, Reference, ReportData
from thalweg.report.page import render, write_report

__all__ = ["Confidence", "Minimum", "Move", "Progress", "Reference", "ReportData", "render", "write_report"]
