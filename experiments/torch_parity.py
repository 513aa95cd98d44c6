"""Records what PyTorch computes, for the JAX tests: writes tests/fixtures/torch_parity.npz.

    python experiments/torch_parity.py   (in an environment with torch 2.13, CPU, one thread, 15 s)

Run it again only when tests/parity_inputs.py or a recipe below changes. Inputs are not stored: `parity_inputs` makes
them again bit for bit on either side; see its docstrings. Everything is in TORCH layouts, maps (B, C, H, W),
conv (out, in, kh, kw), transposed conv (in, out, kh, kw), Linear (out, in), except `reals`, uint8 (B, H, W, C). No
pickles in the file.

conv/<case>/{y, dx, dw}, float32 rounded from float64; cases and their geometry are parity_inputs.CONV_CASES
    y is the layer's output for conv_inputs(case); dx and dw are the gradients of sum(y * conv_upstream(case,
    y.shape)) with respect to input and weight. No bias. conv_* and convT_*: k4s1p0 (D's last layer from 4x4, G's
    first from 1x1), k4s2p1 (torch), k5s2p2 (newmu, the transposed one with output_padding 1), k5s2same (carpedm20).
    The suffix is the input's size; _8 has batch 2, conv_*_6 (6 to the odd 3) and convT_*_3 (3 to 6) batch 1. Asserted
    here: a transposed conv is a correlation of the dilated input with the FLIPPED kernel, and without the flip has
    the same shape and other numbers (by more than 0.1).
bn/{map, vector}/..., eps 1e-5, torch momentum 0.1, float32 rounded from float64; inputs from bn_inputs
    y0, y1: train-mode outputs of x0, then x1. dx, dgamma, dbeta: gradients of sum(y0 * upstream). running_mean1,
    running_var1: after x0; running_mean2, running_var2: after x0 and x1. y_eval: x0 through the statistics after
    both. n: values per channel (64 and 4). torch's variance is the UNBIASED one: biased_running_var(running_var, n,
    updates) is what flax holds.
adam/{torch, eps_hat}_{1e-08, 1e-07}, (5, 8) float64: the parameter, from zero, after each of 5 steps
    on adam/gradients (5, 8) float32; lr 2e-4, b1 0.5, b2 0.999. torch: m^ / (sqrt(v^) + eps), optax.adam's formula.
    eps_hat (TF1, torch7, Keras): lr sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + eps). Columns are gradient scales 1e-1
    to 1e-10.
losses/{bce, bce_smooth, hinge, least_squares}/{d, d_grad_real, d_grad_fake, g, g_grad}, (11,) float64
    Per image, no mean. d of REAL_LOGITS[i] and FAKE_LOGITS[i]; g of FAKE_LOGITS[i]; gradients with respect to
    those logits. bce: real target 1, fake 0, summed, not halved; g target 1. bce_smooth: 0.9 for every 1 (D's reals,
    and g). hinge: relu(1 - real) + relu(1 + fake), g = -fake. least_squares: (real - 1)^2 + fake^2, g = (fake - 1)^2,
    no factor of a half.

Runs, parity_inputs.RUNS: torch64 (1 step, width 64, batch 8), torch64_width16 (20 steps, batch 8), article (20 steps,
width 32, batch 16). BCE on logits, D loss = real + fake; Adam 2e-4, (0.5, 0.999), eps 1e-8; BN eps 1e-5; real and
fake through D apart, in that order; D first, then G against the new D. torch64: G's step uses the D step's own fakes,
so z_g is not used and running statistics move G 1, D 3 (real, fake, fake) times a step. article: new z for G's step;
G 2, D 3 times. Inputs at step s = 0, 1, ...: initial_parameters(run), scaled(reals(run, s)), latents(run,
INDEX_LATENTS_D, s), latents(run, INDEX_LATENTS_G, s).

<run>/{d_loss, g_loss}, (steps,) float32, each step's own, the D loss before D's update
<run>/{d_loss, g_loss}_float64: the same run in float64 from the same float32 inputs
<run>/n/<net>/<bn>: values per channel in that BN's every pass, as in article/n/G/t_conv1.1
<run>/step1/{logits_real, logits_fake, logits_g}, (B,): D on reals, on fakes, and the new D on the fakes of G's step
<run>/step1/fakes: sample() of the D step's fakes (B, 3, S, S)
<run>/step1/gradient/<net>/<parameter>: sample() of D's gradient in the D step and G's in G's step
    Adam's first step is nearly lr * sign, which hides a wrong scale; these do not. Adam's first moment
    after step 1 is half of them.
<run>/step<k>/value/<net>/<tensor>, float32: sample() of each parameter and running statistic AFTER k steps
    k is 1 and, but for torch64, 20. running_var is torch's unbiased one, updated run.updates[net] * k times.
<run>/step20/value_float64/<net>/<tensor>: the same from the float64 run
<run>/step<k>/sum/<net>, float64: sums of whole tensors, in the order of tensor_names(recipe, width, net)
<run>/step<k>/{noise, sum_noise}/<net>: how far float32 is from float64: sampled entries' largest gap; sums

How tight a test can be, measured with an independent JAX rebuild of the nets on a CPU:
float64 (jax_enable_x64, float64 nets and Adam): losses of all 20 steps to 2e-15 relative, value_float64 to 1e-15.
    A test may ask for 1e-9.
float32, step 1: losses 5e-6 relative, logits 3e-5 absolute, gradients 1e-5 of a tensor's largest entry, sampled values
    2e-7, sums 1.2e-3 and 1.5e-4 (torch64's G and D) or 5e-5 (the others'). Sums and whole-tensor maxima
    are looser than samples because a weight whose gradient is within rounding of zero may take its first Adam
    step, lr = 2e-4, in either direction: about 1 weight in 1e5.
float32, later: losses agree to 1e-5 for 2 steps (torch64_width16) and 5 steps (article), to 5% and 0.6% at step 20,
    where step20/value is off by up to 3e-2 in statistics and by a few lr in weights. Probably those few weights are the
    cause, for there is a threshold: start the article's float64 run off by 1e-9 and its losses stay within 2e-9 for all
    20 steps; by 1e-7, and they part as in float32. So in float32 the 20 steps can only be tested loosely.
"""

import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch_reference import ArticleDiscriminator, ArticleGenerator, adam, article_step, bce

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path.insert(0, str(TESTS))

import parity_inputs as inputs  # noqa: E402

COUNTS = {"torch64": {"G": 3_576_704, "D": 2_765_568}, "article": {"G": 372_416, "D": 167_809}}  # of the sources


class Torch64Generator(nn.Module):
    """(B, 100) to (B, 3, 64, 64) in [-1, 1], no biases: the generator of PyTorch's example."""

    def __init__(self, width: int):
        super().__init__()
        layers, channels = [], [100, 8 * width, 4 * width, 2 * width, width]
        for level, (fan_in, fan_out) in enumerate(pairwise(channels)):
            stride, padding = (1, 0) if level == 0 else (2, 1)  # 1x1 to 4x4 first, then doublings
            layers += [nn.ConvTranspose2d(fan_in, fan_out, 4, stride, padding, bias=False), nn.BatchNorm2d(fan_out)]
            layers += [nn.ReLU()]
        self.main = nn.Sequential(*layers, nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=False), nn.Tanh())

    def forward(self, z):
        return self.main(z[:, :, None, None])


class Torch64Discriminator(nn.Module):
    """(B, 3, 64, 64) to (B,) logits, no biases, no BN in the first layer."""

    def __init__(self, width: int):
        super().__init__()
        layers = [nn.Conv2d(3, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
        for fan_in in (width, 2 * width, 4 * width):
            layers += [nn.Conv2d(fan_in, 2 * fan_in, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * fan_in), nn.LeakyReLU(0.2)]
        self.main = nn.Sequential(*layers, nn.Conv2d(8 * width, 1, 4, 1, 0, bias=False))

    def forward(self, x):
        return self.main(x).flatten()


NETS = {"torch64": (Torch64Generator, Torch64Discriminator), "article": (ArticleGenerator, ArticleDiscriminator)}


def torch64_step(g, d, g_adam, d_adam, reals, z_d, z_g) -> dict[str, torch.Tensor]:
    """Updates D on reals and detached fakes, then G on the SAME fakes through the updated D. z_g is not used.

    Leaves D's gradient of the D step and G's of the G step in .grad. Running statistics move 3 times in D, once in G.
    """
    fakes = g(z_d)
    logits_real, logits_fake = d(reals), d(fakes.detach())
    d_loss = bce(logits_real, 1.0) + bce(logits_fake, 0.0)
    d_adam.zero_grad()
    d_loss.backward()
    d_adam.step()

    logits_g = d(fakes)
    g_loss = bce(logits_g, 1.0)
    g_adam.zero_grad()
    g_loss.backward(inputs=list(g.parameters()))
    g_adam.step()
    parts = {"d_loss": d_loss, "g_loss": g_loss, "fakes": fakes}
    parts |= {"logits_real": logits_real, "logits_fake": logits_fake, "logits_g": logits_g}
    return {name: part.detach() for name, part in parts.items()}


STEPS = {"torch64": torch64_step, "article": article_step}


def convolve(case: inputs.ConvCase, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Applies the layer that a case names, in the most literal PyTorch."""
    if case.transposed:
        y = F.conv_transpose2d(x, weight, None, case.stride, case.padding, case.output_padding)
        return y[:, :, :-1, :-1] if case.same else y
    if case.same:
        return F.conv2d(F.pad(x, (1, 2, 1, 2)), weight, None, case.stride)
    return F.conv2d(x, weight, None, case.stride, case.padding)


def dilated(case: inputs.ConvCase, x: torch.Tensor, weight: torch.Tensor, flip: bool) -> torch.Tensor:
    """Applies a transposed conv like flax and XLA: dilate the input by the stride, pad, cross-correlate."""
    batch, channels, size, _ = x.shape
    spread = x.new_zeros(batch, channels, case.stride * (size - 1) + 1, case.stride * (size - 1) + 1)
    spread[:, :, :: case.stride, :: case.stride] = x
    before = case.kernel - 1 - case.padding
    after = before + case.output_padding - (1 if case.same else 0)
    kernel = weight.transpose(0, 1)
    return F.conv2d(F.pad(spread, (before, after, before, after)), kernel.flip(2, 3) if flip else kernel)


def record_convs(out: dict) -> None:
    """Computes values and gradients in float64 from the float32 inputs, so that any error is the other side's."""
    for name, case in inputs.CONV_CASES.items():
        x, weight, _ = inputs.conv_inputs(name)
        x, weight = (torch.from_numpy(a).double().requires_grad_() for a in (x, weight))
        y = convolve(case, x, weight)
        upstream = torch.from_numpy(inputs.conv_upstream(name, tuple(y.shape))).double()
        dx, dw = torch.autograd.grad(y, (x, weight), upstream)
        for key, value in (("y", y), ("dx", dx), ("dw", dw)):
            out[f"conv/{name}/{key}"] = value.detach().float().numpy()

        if case.transposed:
            flipped, unflipped = dilated(case, x, weight, True), dilated(case, x, weight, False)
            assert flipped.shape == unflipped.shape == y.shape, name
            assert torch.allclose(flipped, y, rtol=0, atol=1e-12), name
            assert (unflipped - y).abs().max() > 0.1, f"{name}: the flip must matter"
        if case.same and case.transposed:  # what makes it TensorFlow's: it is the transpose of the SAME conv
            plain = case._replace(transposed=False)
            other = torch.linspace(-1, 1, upstream.numel(), dtype=torch.float64).sin().reshape(upstream.shape)
            assert torch.allclose((y * other).sum(), (x * convolve(plain, other, weight)).sum(), rtol=1e-12), name


def record_bn(out: dict) -> None:
    for name in inputs.BN_SHAPES:
        arrays = {key: torch.from_numpy(a).double() for key, a in inputs.bn_inputs(name).items()}
        channels = arrays["gamma"].numel()
        bn = (nn.BatchNorm1d if name == "vector" else nn.BatchNorm2d)(channels, eps=1e-5, momentum=inputs.BN_MOMENTUM).double()
        bn.weight.data, bn.bias.data = arrays["gamma"].clone(), arrays["beta"].clone()
        x0 = arrays["x0"].requires_grad_()
        y0 = bn(x0)
        record = {"n": np.int64(x0.numel() // channels), "y0": y0}
        gradients = torch.autograd.grad(y0, (x0, bn.weight, bn.bias), arrays["upstream"])
        record |= zip(("dx", "dgamma", "dbeta"), gradients, strict=True)
        record |= {"running_mean1": bn.running_mean.clone(), "running_var1": bn.running_var.clone()}
        record["y1"] = bn(arrays["x1"])
        record |= {"running_mean2": bn.running_mean.clone(), "running_var2": bn.running_var.clone()}
        record["y_eval"] = bn.eval()(x0)
        for key, value in record.items():
            out[f"bn/{name}/{key}"] = value.detach().float().numpy() if torch.is_tensor(value) else value

        n, start = int(record["n"]), 0.9
        biased = x0.detach().transpose(0, 1).reshape(channels, -1).var(1, correction=0).numpy()
        assert np.allclose(record["running_var1"], start + 0.1 * biased * n / (n - 1), rtol=1e-12)
        assert np.allclose(inputs.biased_running_var(record["running_var1"], n, 1), start + 0.1 * biased, rtol=1e-12)


def record_adam(out: dict) -> None:
    gradients = inputs.adam_gradients().astype(np.float64)  # (5, 8)
    lr, b1, b2 = inputs.ADAM_LEARNING_RATE, inputs.ADAM_B1, inputs.ADAM_B2
    for eps in (1e-8, 1e-7):
        parameter = torch.zeros(gradients.shape[1], dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.Adam([parameter], lr=lr, betas=(b1, b2), eps=eps)
        m = v = value = ordinary = np.zeros(gradients.shape[1])
        torch_values, hat_values, ordinary_values = [], [], []
        for t, gradient in enumerate(gradients, start=1):
            parameter.grad = torch.from_numpy(gradient.copy())
            optimiser.step()
            torch_values.append(parameter.detach().numpy().copy())
            m, v = b1 * m + (1 - b1) * gradient, b2 * v + (1 - b2) * gradient**2
            # eps-hat: eps beside the UNcorrected root, the two corrections moved into the learning rate.
            value = value - lr * np.sqrt(1 - b2**t) / (1 - b1**t) * m / (np.sqrt(v) + eps)
            ordinary = ordinary - lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
            hat_values.append(value)
            ordinary_values.append(ordinary)
        assert np.allclose(torch_values, ordinary_values, rtol=1e-9, atol=0)
        assert np.abs(hat_values[-1] / torch_values[-1] - 1)[-1] > 0.5, "at gradients of 1e-10 the two must part"
        out[f"adam/torch_{eps:.0e}"], out[f"adam/eps_hat_{eps:.0e}"] = np.array(torch_values), np.array(hat_values)
    out["adam/gradients"] = inputs.adam_gradients()


def record_losses(out: dict) -> None:
    """Computes per-image float64 losses and their gradients with respect to the logits."""

    def cross_entropy(logits, target):
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target), reduction="none")

    def squared(logits, target):
        return F.mse_loss(logits, torch.full_like(logits, target), reduction="none")

    d_losses = {
        "bce": lambda real, fake: cross_entropy(real, 1.0) + cross_entropy(fake, 0.0),
        "bce_smooth": lambda real, fake: cross_entropy(real, 0.9) + cross_entropy(fake, 0.0),
        "hinge": lambda real, fake: F.relu(1 - real) + F.relu(1 + fake),
        "least_squares": lambda real, fake: squared(real, 1.0) + squared(fake, 0.0),
    }
    g_losses = {
        "bce": lambda fake: cross_entropy(fake, 1.0),
        "bce_smooth": lambda fake: cross_entropy(fake, 0.9),
        "hinge": lambda fake: -fake,
        "least_squares": lambda fake: squared(fake, 1.0),
    }
    for name, d_loss in d_losses.items():
        real, fake = (torch.tensor(a, requires_grad=True) for a in (inputs.REAL_LOGITS, inputs.FAKE_LOGITS))
        d, g = d_loss(real, fake), g_losses[name](fake)
        d_real, d_fake = torch.autograd.grad(d.sum(), (real, fake))
        record = {"d": d, "d_grad_real": d_real, "d_grad_fake": d_fake}
        record |= {"g": g, "g_grad": torch.autograd.grad(g.sum(), fake)[0]}
        out |= {f"losses/{name}/{key}": value.detach().numpy() for key, value in record.items()}


def _note_size(sizes: dict, key: tuple[str, str], _, args: tuple) -> None:
    sizes[key] = args[0].numel() // args[0].shape[1]


def play(run: inputs.Run, dtype: torch.dtype) -> dict:
    """Trains a run. Returns its losses, the tensors after the first and the last step, and the first step's inner values."""
    nets = {net: NETS[run.recipe][i](run.width).to(dtype) for i, net in enumerate("GD")}
    for net, arrays in inputs.initial_parameters(run).items():
        expected = {name: tuple(p.shape) for name, p in nets[net].named_parameters()}
        assert list(expected.items()) == list(inputs.parameter_shapes(run.recipe, run.width)[net].items()), net
        if run.width == {"torch64": 64, "article": 32}[run.recipe]:
            assert sum(p.numel() for p in nets[net].parameters()) == COUNTS[run.recipe][net]
        nets[net].load_state_dict({name: torch.from_numpy(a) for name, a in arrays.items()}, strict=False)

    sizes = {}  # values per channel that each BN averages over
    for net, module in nets.items():
        for name, child in module.named_modules():
            if isinstance(child, nn.BatchNorm2d):
                child.register_forward_pre_hook(partial(_note_size, sizes, (net, name)))

    g, d = nets["G"], nets["D"]
    g_adam, d_adam = adam(g), adam(d)
    result = {"d_loss": [], "g_loss": [], "snapshots": {}, "sizes": sizes}
    for step in range(run.steps):
        z_d, z_g = (
            torch.from_numpy(inputs.latents(run, base, step)).to(dtype)
            for base in (inputs.INDEX_LATENTS_D, inputs.INDEX_LATENTS_G)
        )
        reals = torch.from_numpy(inputs.scaled(inputs.reals(run, step)).transpose(0, 3, 1, 2).copy()).to(dtype)
        parts = STEPS[run.recipe](g, d, g_adam, d_adam, reals, z_d, z_g)
        result["d_loss"].append(parts.pop("d_loss").item())
        result["g_loss"].append(parts.pop("g_loss").item())
        if step == 0:
            result["parts"] = {name: part.numpy() for name, part in parts.items()}
            result["gradients"] = {
                net: {name: p.grad.numpy().copy() for name, p in module.named_parameters()} for net, module in nets.items()
            }
        if step + 1 in (1, run.steps):
            result["snapshots"][step + 1] = {
                net: {name: module.state_dict()[name].numpy().copy() for name in inputs.tensor_names(run.recipe, run.width, net)}
                for net, module in nets.items()
            }
    for net, module in nets.items():
        counters = [value.item() for name, value in module.state_dict().items() if name.endswith("num_batches_tracked")]
        assert counters == [run.updates[net] * run.steps] * len(counters), (net, counters)
    return result


def record_run(out: dict, name: str) -> None:
    run = inputs.RUNS[name]
    single, double = play(run, torch.float32), play(run, torch.float64)  # the second only measures the first's rounding
    for loss in ("d_loss", "g_loss"):
        out[f"{name}/{loss}"] = np.array(single[loss], np.float32)
        out[f"{name}/{loss}_float64"] = np.array(double[loss], np.float64)
        gaps = np.abs(np.array(single[loss]) / np.array(double[loss]) - 1)
        print(f"{name} {loss}: {single[loss][0]:.6f} to {single[loss][-1]:.6f}; float32 rounding", *map("{:.0e}".format, gaps))
    for (net, bn), n in single["sizes"].items():
        out[f"{name}/n/{net}/{bn}"] = np.int64(n)
    for part, value in single["parts"].items():
        out[f"{name}/step1/{part}"] = inputs.sample(value) if part == "fakes" else value
    for net, gradients in single["gradients"].items():
        worst = 0.0
        for tensor, value in gradients.items():
            out[f"{name}/step1/gradient/{net}/{tensor}"] = inputs.sample(value)
            scale = np.abs(double["gradients"][net][tensor]).max()
            worst = max(worst, np.abs(value - double["gradients"][net][tensor]).max() / scale)
        print(f"{name} step 1 gradient of {net}: rounding up to {worst:.0e} of a tensor's largest entry")
    for step, nets in single["snapshots"].items():
        for net, tensors in nets.items():
            exact = double["snapshots"][step][net]
            for tensor, value in tensors.items():
                out[f"{name}/step{step}/value/{net}/{tensor}"] = inputs.sample(value)
                if step > 1:
                    out[f"{name}/step{step}/value_float64/{net}/{tensor}"] = inputs.sample(exact[tensor])
            out[f"{name}/step{step}/noise/{net}"] = np.array(
                [np.abs(inputs.sample(value) - inputs.sample(exact[tensor])).max() for tensor, value in tensors.items()]
            )
            sums = np.array([value.sum(dtype=np.float64) for value in tensors.values()])
            out[f"{name}/step{step}/sum/{net}"] = sums
            out[f"{name}/step{step}/sum_noise/{net}"] = np.abs(sums - [exact[tensor].sum() for tensor in tensors])
            off = [np.abs(value - exact[tensor]).ravel() for tensor, value in tensors.items() if value.ndim > 1]
            off = np.concatenate(off)
            print(
                f"{name} step {step} {net}: sampled noise up to {out[f'{name}/step{step}/noise/{net}'].max():.0e};",
                f"kernels' rounding median {np.median(off):.0e}, over 1e-6 in {np.mean(off > 1e-6):.1e},",
                f"max {off.max():.0e};",
                f"sums' up to {out[f'{name}/step{step}/sum_noise/{net}'].max():.0e}",
            )


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)  # only weights that are overwritten depend on it
    out = {}
    record_convs(out)
    record_bn(out)
    record_adam(out)
    record_losses(out)
    for name in inputs.RUNS:
        record_run(out, name)
    assert all(np.isfinite(value).all() for value in out.values())
    path = TESTS / "fixtures" / "torch_parity.npz"
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(path, **out)
    print(f"{path}: {len(out)} arrays, {path.stat().st_size:,} bytes")
    assert path.stat().st_size < 300_000


if __name__ == "__main__":
    main()
