"""What each command does, without the option parsing."""

from hyca_calib.commands.benching import BenchOptions, bench_all
from hyca_calib.commands.checking import check_file, show_check
from hyca_calib.commands.describing import describe
from hyca_calib.commands.doctor import examine
from hyca_calib.commands.main_job import evaluate_file, merge_files, report_study, run_demo
from hyca_calib.commands.measuring import bench_runtime
from hyca_calib.commands.publishing import publish_figures, verify_bench
from hyca_calib.commands.searching import Limits, search_plans
from hyca_calib.commands.tracing import TraceOptions, merge_parts, trace_model, verify_trace

__all__ = [
    "BenchOptions",
    "Limits",
    "TraceOptions",
    "bench_all",
    "bench_runtime",
    "check_file",
    "describe",
    "evaluate_file",
    "examine",
    "merge_files",
    "merge_parts",
    "publish_figures",
    "report_study",
    "run_demo",
    "search_plans",
    "show_check",
    "trace_model",
    "verify_bench",
    "verify_trace",
]
