"""Inspects the program that a GPU or TPU would run, without one: lowers it for both, compiles it if a compiler is installed.

    python experiments/accelerators.py                    # the first table, and the second by XLA's compiler for CPU: 20 s
    pip install --no-deps --target compilers libtpu==0.0.42.1 jax-cuda12-plugin==0.10.2 jax-cuda12-pjrt==0.10.2
    PYTHONPATH=compilers python experiments/accelerators.py --compilers h100 v5e        # three to ten minutes on two cores
    PYTHONPATH=compilers python experiments/accelerators.py --compilers h100 --settings default "folded pixels"   # of gpu.py

While it is traced, the code asks only jax.default_backend(). With that function patched it makes lax convolutions and one
lax.scan of --steps steps, with train.py's shardings and donation. The first table shows jax.export's modules. The second shows
the same program compiled, with its work counted per image. The CPU compiler fuses less than an accelerator's and computes
bfloat16 in float32: its FLOPs hold anywhere, its bytes do not. The programs for an H100 and a TPU v5e (packages of jax 0.10.2)
are those that would run there; compiling needs no device. XLA counts nothing for a GPU program: its bytes are summed here over
its kernels, its FLOPs are computed by formula. FLOP a byte uses the FLOPs by formula without the taps that fall on padding,
which XLA leaves out as well.
"""

import argparse
import contextlib
import math
import os
import re
import subprocess
import sys
from collections import Counter
from unittest import mock

import jax
import jax.numpy as jnp
from jax import export
from jax.experimental import topologies

from dcgan_jax.batch import Batch
from dcgan_jax.config import Config, replace
from dcgan_jax.data.batches import Order
from dcgan_jax.gan.models import list_d_widths, list_g_widths
from dcgan_jax.gan.state import describe_state
from dcgan_jax.gan.step import make_train_steps
from dcgan_jax.presets import PRESETS
from dcgan_jax.run import distributed

# What XLA's compiler needs to know about an H100. Source: openxla/xla, xla/backends/gpu/target_config/specs/h100_sxm.txtpb.
H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 } core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 device_memory_size: 84942979072
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 } device_description_str: "NVIDIA H100 80GB HBM3"
"""
BYTES = {"pred": 1, "u8": 1, "s8": 1, "bf16": 2, "u16": 2, "s16": 2, "f32": 4, "u32": 4, "s32": 4, "u64": 8, "s64": 8}


@contextlib.contextmanager
def pretending(platform: str, pretended: list | None = None):
    """Patches jax so that the default backend is that of `platform`, cuda or tpu, and its devices are those given."""
    with (
        mock.patch.object(jax, "default_backend", lambda: {"cuda": "gpu"}.get(platform, platform)),
        mock.patch.object(jax, "devices", lambda: pretended) if pretended else contextlib.nullcontext(),
    ):
        yield


def program(config: Config, steps: int):
    """Returns train.py's jitted program and the shapes of its arguments."""
    sharding = distributed.make_shardings(config)
    side = config.nets.size
    batches = Batch(jax.ShapeDtypeStruct((steps, config.images_per_step, side, side, config.nets.channels), jnp.uint8))
    jitted = jax.jit(
        make_train_steps(config, sharding.images),
        donate_argnames="state",
        in_shardings=(sharding.state, sharding.batches),
        out_shardings=sharding.state,
    )
    return jitted, (describe_state(config), batches)


def exported(config: Config, platform: str, steps: int) -> export.Exported:
    """Lowers the program for cuda or tpu."""
    with pretending(platform):
        jitted, shapes = program(config, steps)
        return export.export(jitted, platforms=[platform])(*shapes)


def compiled(config: Config, platform: str, steps: int, pretended: list | None = None, options: dict | None = None):
    """Compiles the program for the given devices, by default for this machine's CPU."""
    with pretending(platform, pretended):
        jitted, shapes = program(config, steps)
        lowered = jitted.lower(*shapes)
    return lowered.compile(compiler_options=options)


def operations(module: str) -> Counter:
    """Counts each StableHLO operation of the module."""
    return Counter(re.findall(r"\bstablehlo\.(\w+)", module))


def convolutions(module: str) -> Counter:
    """Counts convolutions by (role, operand dtype). down halves the side, up doubles it, weights is a weight gradient."""
    found = Counter()
    for line in module.splitlines():
        if "stablehlo.convolution" in line:
            role = "weights" if "rhs_dilate" in line else "up" if "lhs_dilate" in line else "down"
            operands = re.search(r": \(tensor<(?:\d+x)*(\w+)>, tensor<(?:\d+x)*(\w+)>\) ->", line)
            found[role, "/".join(sorted(set(operands.groups())))] += 1
    return found


def strided_in_hlo(text: str) -> int:
    """Counts strided convolutions in a compiled program. A TPU's dense layers are convolutions without a window."""
    return len(re.findall(r" convolution\(.*window={[^}]*(?:stride|dilate)|__cudnn\$conv", text))


def donated(module: str) -> int:
    """Counts arguments whose memory the results may reuse."""
    return len(re.findall(r"tf\.aliasing_output|jax\.buffer_donor", module))


def to_host(module: str) -> list[str]:
    """Lists what would make a device wait for its host: callbacks, infeed and outfeed, sends and receives."""
    return [
        name
        for name in (*re.findall(r"custom_call @([\w$.]+)", module), *operations(module))
        if "callback" in name or name in ("infeed", "outfeed", "send", "recv")
    ]


def by_hand(config: Config) -> tuple[int, float, float]:
    """For one D and one G update: strided convolutions, GFLOP per image, and the same without the taps on padding."""
    nets = config.nets
    g_passes = 3 + (config.optimizer.g_latents == "new")  # forward for each set of latents, input and weight gradient
    d_passes = 8  # forward, input and weight gradient of reals and of fakes; forward and input gradient in G's update
    flops = []
    for padding in (0, nets.kernel - 2):
        macs = []
        for widths in (list_g_widths(nets)[::-1], list_d_widths(nets)):  # from the image inwards
            layers = zip((nets.channels, *widths), widths, strict=False)
            macs.append([(nets.kernel * nets.size // 2**i - padding) ** 2 * a * b for i, (a, b) in enumerate(layers, 1)])
        g, d = macs
        # The images themselves need no gradient in D's own update.
        flops.append(2 * (g_passes * sum(g) + d_passes * sum(d) - 2 * d[0]) / 1e9)
    return (g_passes + d_passes) * len(d) - 2, *flops


def bytes_by_kernel(text: str) -> int:
    """Sums what a GPU program's kernels read and write in one iteration: whole operands and results."""
    body = re.search(r" while\(.*body=(%[\w.\-]+)", text[text.index("\nENTRY") :])[1]
    start = text.index(f"\n{body} (")
    sizes, total = {}, 0
    for instruction in re.finditer(r"(%[\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)", text[start : text.index("\n}", start)]):
        name, shapes, operation, rest = instruction.groups()
        sizes[name] = sum(
            BYTES[dtype] * math.prod(int(side) for side in shape.split(",") if side)
            for dtype, shape in re.findall(r"\b(pred|[us]\d+|b?f\d+)\[([\d,]*)\]", shapes)
        )
        if operation not in ("parameter", "constant", "tuple", "get-tuple-element", "bitcast"):
            total += sizes[name] + sum(sizes.get(operand, 0) for operand in re.findall(r"%[\w.\-]+", rest.split("), ")[0]))
    return total


def compiler(name: str) -> tuple[str, list, dict | None]:
    """Returns (platform, devices, options) of cpu, h100 or v5e. The last two need their packages, but no device."""
    if name == "h100":
        described = topologies.get_topology_desc("h100", platform="cuda", topology="1x1x1", target_config=H100)
        return "cuda", described.devices, {"xla_gpu_autotune_level": "0"}  # autotuning would measure
    if name == "v5e":
        os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost"}
        return "tpu", topologies.get_topology_desc("v5e:2x2", platform="tpu").devices[:1], None
    return "cuda", jax.devices("cpu")[:1], None


def print_lowered(configs: list[Config], steps: int) -> None:
    """Prints the table of the lowered programs."""
    print(
        "| preset | compute | for | module | while loops | convolutions: down, up, weights | their operands | custom calls | "
        "to the host | donated |\n|---|---|---|---:|---:|---:|---|---|---|---:|"
    )
    for config in configs:
        leaves = len(jax.tree.leaves(describe_state(config)))
        for platform in ("cuda", "tpu"):
            lowered = exported(config, platform, steps)
            module, found = lowered.mlir_module(), Counter()
            for (role, _), count in convolutions(module).items():
                found[role] += count
            calls = sorted(set(re.findall(r"custom_call @([\w$.]+)", module)))
            print(
                f"| `{config.run.preset}` | {config.nets.compute_dtype} | {platform} | "
                f"{len(lowered.mlir_module_serialized) / 1e3:.0f} kB | {operations(module)['while']} | "
                f"{found.total()}: {found['down']}, {found['up']}, {found['weights']} | "
                f"{', '.join(sorted({dtype for _, dtype in convolutions(module)}))} | {', '.join(calls) or 'none'} | "
                f"{', '.join(to_host(module)) or 'nothing'} | {donated(module)} of {leaves} |",
                flush=True,
            )


def print_compiled(configs: list[Config], compilers: list[str], batch_size: int, steps: int) -> None:
    """Prints the table of the compiled programs, if a compiler is given."""
    if compilers:
        print(
            "\n| preset | compute | compiler | convolutions (by formula) | GFLOP an image | by formula | without padding "
            "| MB an image | FLOP a byte | temporary |\n|---|---|---|---:|---:|---:|---:|---:|---:|---:|"
        )
    for name in compilers:
        platform, pretended, options = compiler(name)
        for config in configs:
            count, flops, flops_inside = by_hand(config)
            made = compiled(config, platform, steps, pretended, options)
            text, cost = made.as_text(), made.cost_analysis()  # the loop's body is counted once: one step
            mb = (cost["bytes accessed"] if cost else bytes_by_kernel(text)) / batch_size / 1e6
            counted = f"{cost['flops'] / batch_size / 1e9:.3f}" if cost else "not counted"
            print(
                f"| `{config.run.preset}` | {config.nets.compute_dtype} | {name} | {strided_in_hlo(text)} ({count}) | "
                f"{counted} | {flops:.3f} | {flops_inside:.3f} | {mb:.1f} | {1e3 * flops_inside / mb:.0f} | "
                f"{made.memory_analysis().temp_size_in_bytes / 1e6:.0f} MB |",
                flush=True,
            )


def count_with_stride(module: str) -> int:
    """Counts convolutions of a lowered program that have a stride or a dilation."""
    return len(re.findall(r"stablehlo\.convolution.*(?:stride|dilate) = \[[^\]]*[2-9]", module))


def print_settings(names: list[str], ask: argparse.Namespace) -> None:
    """Prints a table of settings of gpu.py: `torch64` lowered for CUDA, and compiled if h100 is among the compilers.

    Each setting has its own process, because XLA reads XLA_FLAGS once.
    """
    from gpu import SETTINGS  # here, because it is found only where this file is the program

    print(
        "| setting | loops | convolutions | with a stride or dilation | compiled: loops | operations a step "
        "| convolutions a step | temporary |\n|---|---:|---:|---:|---:|---:|---:|---:|",
        flush=True,
    )
    for name in names:
        command = [
            sys.executable,
            __file__,
            "--one-setting",
            name,
            "--batch-size",
            str(ask.batch_size),
            "--steps",
            str(ask.steps),
        ]
        done = subprocess.run(
            [*command, "--compilers", *ask.compilers],
            capture_output=True,
            text=True,
            env=os.environ | {"XLA_FLAGS": " ".join([os.environ.get("XLA_FLAGS", ""), *SETTINGS[name].flags]).strip()},
        )
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        print(done.stdout.strip() or f"| {name} | failed: {lines[-1][:200] if lines else done.returncode} |", flush=True)


def print_one_setting(name: str, compilers: list[str], batch_size: int, steps: int) -> None:
    """Prints one row of that table. The setting's flags are in XLA_FLAGS."""
    from conv_variants import use_variant
    from gpu import SETTINGS
    from gpu_worker import count_in_hlo

    setting = SETTINGS[name]
    config = replace(PRESETS["torch64"], batch_size=batch_size, compute_dtype=setting.compute_dtype)
    cells = ["-"] * 4
    with use_variant(setting.convolution, setting.is_unrolled):
        module = exported(config, "cuda", steps).mlir_module()
        if "h100" in compilers:
            made = compiled(config, "cuda", steps, *compiler("h100")[1:])
            found = count_in_hlo(made.as_text(), steps)
            cells = [f"{found[key]:.0f}" for key in ("loops", "operations", "convolutions")]
            cells += [f"{made.memory_analysis().temp_size_in_bytes / 1e6:.0f} MB"]
    counts = operations(module)["while"], sum(convolutions(module).values()), count_with_stride(module)
    print(f"| {' | '.join(map(str, (name, *counts, *cells)))} |", flush=True)


def print_transfers(presets: list[str], batch_size: int) -> None:
    """Prints the bytes from the host each step."""
    for preset in presets:
        indices, side = Order(0, 202_599, batch_size).indices(0).astype("int32"), PRESETS[preset].nets.size
        print(
            f"\n`{preset}`, batch {batch_size}, from the host each step: resident {indices.nbytes:,} bytes of indices; "
            f"stream {batch_size * side**2 * 3:,} bytes of images"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["article", "torch64"], choices=["article", "torch64"])
    parser.add_argument("--compilers", nargs="*", default=["cpu"], choices=["cpu", "h100", "v5e"])
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10, help="steps per dispatch")
    parser.add_argument("--settings", nargs="+", help="print only the table of these settings of gpu.py")
    parser.add_argument("--one-setting", help=argparse.SUPPRESS)  # a row of it, by the process that prints the table
    ask = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    if ask.settings:
        return print_settings(ask.settings, ask)
    if ask.one_setting:
        return print_one_setting(ask.one_setting, ask.compilers, ask.batch_size, ask.steps)
    configs = [
        replace(PRESETS[preset], batch_size=ask.batch_size, compute_dtype=dtype)
        for preset in ask.presets
        for dtype in ("float32", "bfloat16")
    ]
    print_lowered(configs, ask.steps)
    print_compiled(configs, ask.compilers, ask.batch_size, ask.steps)
    print_transfers(ask.presets, ask.batch_size)


if __name__ == "__main__":
    main()
