"""Checkpoints to the folder that ships: ONNX in the Hugging Face Optimum layout.

``python -m tools.builtin_model.export CHECKPOINTS FOLDER``

Weights are stored as float16 behind Cast nodes, which onnxruntime folds when it loads the file:
half the size on disk, the speed and arithmetic of float32 at run time.
"""

import argparse
import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from tools.builtin_model.network import (
    GRID,
    LATENT_CHANNELS,
    TEXT_TOKENS,
    TEXT_WIDTH,
    TIMESTEPS,
    Decoder,
    Generator,
    TextEncoder,
    Velocity,
)

OPSET = 18
LEAST_VALUES = 64
"""Smaller tensors stay float32: constants of the graph, not weights."""

SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": TIMESTEPS,
    "shift": 3.0,
}
TOKENIZER = {
    "model_max_length": TEXT_TOKENS,
    "pad_token": "[PAD]",
    "bos_token": "[BOS]",
    "eos_token": "[EOS]",
    "unk_token": "[UNK]",
}
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["optimum", "ORTModel"],
    "tokenizer": ["tokenizers", "Tokenizer"],
    "unet": ["optimum", "ORTModel"],
    "vae_decoder": ["optimum", "ORTModel"],
}


def export(checkpoints: Path, folder: Path) -> None:
    """Write the whole model folder; what is there already is overwritten."""
    trained = torch.load(checkpoints / "generator.pt")
    text = TextEncoder(trained["text"]["words.weight"].shape[0])
    text.load_state_dict(trained["text"])
    generator = Generator()
    generator.load_state_dict(trained["generator"])
    decoder = Decoder()
    decoder.load_state_dict(torch.load(checkpoints / "decoder.pt")["decoder"])
    write_networks(folder, text, generator, decoder)
    write_json(folder / "model_index.json", INDEX)
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    write_json(folder / "tokenizer" / "tokenizer_config.json", TOKENIZER)
    shutil.copyfile(checkpoints / "tokenizer.json", folder / "tokenizer" / "tokenizer.json")


def write_networks(folder: Path, text: TextEncoder, generator: Generator, decoder: Decoder) -> None:
    """Write the three graphs with their configurations."""
    latents = torch.randn(2, LATENT_CHANNELS, GRID, GRID)
    ids = torch.zeros(2, TEXT_TOKENS, dtype=torch.int64)
    write_graph(text, {"input_ids": ids}, "last_hidden_state", folder / "text_encoder")
    inputs = {
        "sample": latents,
        "timestep": torch.tensor([900.0, 500.0]),
        "encoder_hidden_states": torch.randn(2, TEXT_TOKENS, TEXT_WIDTH),
    }
    write_graph(Velocity(generator), inputs, "out_sample", folder / "unet")
    write_graph(decoder, {"latent_sample": latents}, "sample", folder / "vae_decoder")
    configs: Mapping[str, Mapping[str, Any]] = {
        "text_encoder": {
            "_class_name": "LimnerTextEncoder",
            "hidden_size": TEXT_WIDTH,
            "max_position_embeddings": TEXT_TOKENS,
        },
        "unet": {
            "_class_name": "LimnerTransformer2D",
            "sample_size": GRID,
            "in_channels": LATENT_CHANNELS,
            "out_channels": LATENT_CHANNELS,
            "cross_attention_dim": TEXT_WIDTH,
        },
        "vae_decoder": {
            "_class_name": "LimnerDecoder",
            "scaling_factor": 1.0,
            "latent_channels": LATENT_CHANNELS,
        },
    }
    for part, config in configs.items():
        write_json(folder / part / "config.json", config)


def write_graph(network: nn.Module, inputs: Mapping[str, Tensor], output: str, part: Path) -> None:
    """Write ``network`` as ``model.onnx``, its first axis free."""
    part.mkdir(parents=True, exist_ok=True)
    path = part / "model.onnx"
    names = [*inputs, output]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older exporter is the one that keeps names as given
        torch.onnx.export(
            network.eval(),
            tuple(inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=[output],
            dynamic_axes={name: {0: "batch"} for name in names},
            opset_version=OPSET,
            dynamo=False,
        )
    halve(path)


def halve(path: Path) -> None:
    """Store the weights of a graph as float16, cast back to float32 where they are read."""
    model = onnx.load(str(path))
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) <= LEAST_VALUES:
            continue
        name = tensor.name
        half = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}_f16"))
        casts.append(helper.make_node("Cast", [f"{name}_f16"], [name], to=TensorProto.FLOAT))
    nodes: Sequence[Any] = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a configuration file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def main() -> None:
    """Export what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("checkpoints", type=Path)
    parser.add_argument("folder", type=Path)
    asked = parser.parse_args()
    export(asked.checkpoints, asked.folder)
    size = sum(path.stat().st_size for path in asked.folder.rglob("*") if path.is_file())
    print(f"{asked.folder}: {size} bytes")


if __name__ == "__main__":
    main()
