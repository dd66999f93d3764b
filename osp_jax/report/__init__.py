"""The report of an evaluation: sentences, tables, figures, and the page made of them."""

from osp_jax.report.page import report_html, report_markdown
from osp_jax.report.sentences import summary
from osp_jax.report.tables import markdown_table

__all__ = ["markdown_table", "report_html", "report_markdown", "summary"]
