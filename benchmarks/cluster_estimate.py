"""What training the report's model on a cluster would take: an estimate on paper, not measured.

    python benchmarks/cluster_estimate.py [--peak_tflops 989] [--dollars_per_gpu_hour 3]

Measured values are those of benchmarks/README.md; assumed ones are the flags' defaults, an A100's.
"""

import argparse

# Measured: benchmarks/train_step.py, data_path.py and checkpoint.py.
TFLOP_A_MOVIE = 0.76 / 16
FORWARD_SHARE = 0.52
CORE_SECONDS_A_MOVIE = 2.90e-3  # prepared data, augmented on the host
ACTIVATION_BYTES_A_MOVIE = 706 * 2**20 / 8
CHECKPOINT_SECONDS = 1.12
PARAMETERS, TRAINED = 173_575_512, 94_153_496
# Facts: the arevalo protocol's movies, and the report's number of epochs.
TRAIN, VALIDATION, EPOCHS = 15_552, 2_608, 20


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peak_tflops", type=float, default=312, help="a GPU's, dense bf16")
    parser.add_argument("--share_of_peak", type=float, default=0.3)
    parser.add_argument("--gb_per_second_within_node", type=float, default=200, help="all-reduce")
    parser.add_argument("--gb_per_second_between_nodes", type=float, default=25, help="all-reduce")
    parser.add_argument("--gpus_per_node", type=int, default=8)
    parser.add_argument("--cores_per_gpu", type=int, default=8)
    parser.add_argument("--batch_size", type=int, default=16, help="movies a GPU and step")
    parser.add_argument("--start_seconds", type=float, default=60, help="doctor and start-up")
    parser.add_argument("--dollars_per_gpu_hour", type=float, default=2)
    return parser.parse_args()


def step_seconds(args: argparse.Namespace, gpus: int) -> tuple[float, float, float]:
    """Products, adding up gradients, and data path of a step; the last runs beside the others."""
    products = args.batch_size * TFLOP_A_MOVIE / (args.peak_tflops * args.share_of_peak)
    within = gpus <= args.gpus_per_node
    rate = args.gb_per_second_within_node if within else args.gb_per_second_between_nodes
    adding_up = 2 * (gpus - 1) / gpus * 4 * TRAINED / (rate * 1e9)  # a ring, in fp32
    data = args.batch_size * CORE_SECONDS_A_MOVIE / args.cores_per_gpu
    return products, adding_up, data


def epoch_seconds(args: argparse.Namespace, gpus: int, times: int) -> float:
    products, adding_up, data = step_seconds(args, gpus)
    # Evaluation is the forward pass of as many steps as its movies make.
    training = times * TRAIN / gpus / args.batch_size * max(products + adding_up, data)
    evaluation = times * VALIDATION / gpus / args.batch_size * max(FORWARD_SHARE * products, data)
    return training + evaluation + CHECKPOINT_SECONDS


def gigabytes(args: argparse.Namespace) -> float:
    """On each GPU: parameters, gradients and AdamW's two moments in fp32, and activations."""
    return (4 * PARAMETERS + 12 * TRAINED + args.batch_size * ACTIVATION_BYTES_A_MOVIE) / 1e9


def main() -> None:
    args = parse()
    print(
        "| movies | GPUs | step, ms: products + adding up, data beside | epoch | "
        f"{EPOCHS} epochs | GPU-hours | cost | memory a GPU |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name, times in (("MM-IMDb", 1), ("100 x MM-IMDb", 100)):
        for gpus in (1, 8, 64):
            products, adding_up, data = (1e3 * part for part in step_seconds(args, gpus))
            epoch = epoch_seconds(args, gpus, times)
            hours = (args.start_seconds + EPOCHS * epoch) / 3600
            print(
                f"| {name} | {gpus} | {products:.1f} + {adding_up:.1f}, {data:.1f} | "
                f"{epoch:.0f} s | {hours:.2f} h | {gpus * hours:.1f} | "
                f"${gpus * hours * args.dollars_per_gpu_hour:.1f} | {gigabytes(args):.1f} GB |"
            )


if __name__ == "__main__":
    main()
