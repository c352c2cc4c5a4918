"""What a person looks at after a run or a refinement: one HTML file that needs nothing else; a contact sheet as PNG."""

from integrations.report.entries import ReportEntry, RunReport
from integrations.report.html import write_report
from integrations.report.sheet import write_contact_sheet

__all__ = ["ReportEntry", "RunReport", "write_contact_sheet", "write_report"]
