"""Every file and directory name that is written and later read."""

CONFIG_FILE = "config.yaml"
HISTORY_FILE = "history.jsonl"
CHECKPOINTS_DIR = "checkpoints"
LAST_CHECKPOINT = "last"
BEST_CHECKPOINT = "best"
PRETRAINED_MODEL_DIR = "pretrained_model"
TRAINING_STATE_DIR = "training_state"
OPTIMIZER_FILE = "optimizer.safetensors"
LOOP_STATE_FILE = "loop_state.json"
MANIFEST_FILE = "manifest.json"
REJECTED_POSTERS_FILE = "rejected_posters.jsonl"
DEMO_DATA_DIR = "demo_movies"

REPORTS_DIR = "reports"
METRICS_FILE = "metrics.json"
PREDICTIONS_FILE = "predictions.parquet"
REPORT_FILE = "report.md"

METADATA_FILES = ("metadata.jsonl", "metadata.csv")
