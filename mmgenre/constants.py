"""Every file and directory name that is written and later read."""

CONFIG_FILE = "config.yaml"
HISTORY_FILE = "history.jsonl"
TRACKED_FILE = "tracked.json"
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
LOCK_FILE = ".lock"

GRAPH_FILE = "graph.json"
GRAPH_MATRIX_FILE = "graph.npz"
GRAPH_STATS_FILE = "graph_stats.json"
GRAPH_FIGURE_FILE = "graph_stats.png"
NODE_FEATURES_FILE = "node_features_{}.npy"

REPORTS_DIR = "reports"
METRICS_FILE = "metrics.json"
PREDICTIONS_FILE = "predictions.parquet"
REPORT_FILE = "report.md"
REPORT_PAGE_FILE = "report.html"

SWEEP_FILE = "sweep.json"
SEARCH_FILE = "search.log"

STATS_FILE = "stats.json"
STATS_FIGURE_FILE = "stats.png"

METADATA_FILES = ("metadata.jsonl", "metadata.csv")

PREPARED_MANIFEST_FILE = "prepared.json"
PREPARED_SHARD_FILE = "shard_{:05d}.arrow"
PREPARED_SHARD_PATTERN = "shard_*.arrow"

JOB_FILE = "slurm_job.json"
ONNX_FILE = "model.onnx"
INT8_FILE = "model_int8.onnx"
TORCH_FILE = "model.pt2"
EXPORT_FILE = "export.json"

EXPLANATION_FILE = "explanation.html"
EXPLANATION_FIGURE_FILE = "explanation.png"
EXPLANATION_DATA_FILE = "explanation.json"

SIMILAR_FILE = "similar_movies.safetensors"
