"""The report: tables, plots and one HTML page readable offline."""

from taskloom.report.load import load, render_report
from taskloom.report.model import ReportData
from taskloom.report.render import render, write

__all__ = ["ReportData", "load", "render", "render_report", "write"]
