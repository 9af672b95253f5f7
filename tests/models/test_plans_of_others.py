"""Claims about plans that others made: of earlier versions of nnU-Net, with other words for the same, with networks of
their own."""

import copy
import json
import re
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
import torch

import orchestrator
from bench.instruments.stock_models import labels_of, small_plans, write_image, write_model
from orchestrator.errors import ConfigError, DataError

CONFIGURATION = "3d_fullres"
OF_UNETS = "dynamic_network_architectures.architectures.unet"


@pytest.fixture
def image(tmp_path):
    (path,) = write_image(tmp_path / "case", shape=(9, 20, 18))
    return path


def rewritten(model, target, *, plans=None, dataset=None):
    """Copy a model whose plans or description are changed by functions."""
    copied = shutil.copytree(model, target / model.name)
    for name, change in (("plans.json", plans), ("dataset.json", dataset)):
        found = json.loads((copied / name).read_text())
        (change or (lambda _found: None))(found)
        (copied / name).write_text(json.dumps(found))
    return copied


def labels(model, image, output):
    (row,) = orchestrator.predict(model, image, output=output, device="cpu")
    assert row.status == "predicted", row.message
    return sitk.GetArrayFromImage(sitk.ReadImage(str(output / "case.nii.gz")))


def residual_plans():
    plans = small_plans()
    architecture = plans["configurations"][CONFIGURATION]["architecture"]
    architecture["network_class_name"] = f"{OF_UNETS}.ResidualEncoderUNet"
    network = architecture["arch_kwargs"]
    network["n_blocks_per_stage"] = network.pop("n_conv_per_stage")
    return plans


def in_earlier_words(plans):
    """Describe a network as nnU-Net 2.0 to 2.3 did."""
    configuration = plans["configurations"][CONFIGURATION]
    architecture = configuration.pop("architecture")
    network = architecture["arch_kwargs"]
    configuration |= {
        "UNet_class_name": architecture["network_class_name"].rpartition(".")[2],
        "UNet_base_num_features": network["features_per_stage"][0],
        "unet_max_num_features": max(network["features_per_stage"]),
        "n_conv_per_stage_encoder": network.get("n_blocks_per_stage") or network["n_conv_per_stage"],
        "n_conv_per_stage_decoder": network["n_conv_per_stage_decoder"],
        "num_pool_per_axis": [len(network["strides"]) - 1] * 3,
        "pool_op_kernel_sizes": network["strides"],
        "conv_kernel_sizes": network["kernel_sizes"],
    }


@pytest.mark.parametrize("plans", [small_plans(), residual_plans()], ids=["plain", "residual"])
def test_plans_of_nnunet_2_0_predict_the_same(plans, image, tmp_path):
    model = write_model(tmp_path / "made", plans, labels=labels_of(3))
    earlier = rewritten(model, tmp_path / "earlier", plans=in_earlier_words)
    expected = labels(model, image, tmp_path / "out")
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(labels(earlier, image, tmp_path / "earlier_out"), expected)


def test_parts_of_a_network_have_the_name_of_torch_and_that_of_their_module(image, tmp_path):
    def other_names(plans):
        network = plans["configurations"][CONFIGURATION]["architecture"]["arch_kwargs"]
        network |= {
            "nonlin": "torch.nn.modules.activation.LeakyReLU",
            "conv_op": "torch.nn.Conv3d",
            "norm_op": "torch.nn.InstanceNorm3d",
        }

    model = write_model(tmp_path / "made", small_plans(), labels=labels_of(3))
    other = rewritten(model, tmp_path / "other", plans=other_names)
    np.testing.assert_array_equal(labels(other, image, tmp_path / "b"), labels(model, image, tmp_path / "a"))


def test_further_layers_of_torch_are_predicted_with(image, tmp_path):
    plans = small_plans()
    plans["configurations"][CONFIGURATION]["architecture"]["arch_kwargs"] |= {
        "nonlin": "torch.nn.modules.activation.ReLU",
        "norm_op": "torch.nn.modules.batchnorm.BatchNorm3d",
        "dropout_op": "torch.nn.modules.dropout.Dropout3d",
        "dropout_op_kwargs": {"p": 0.1},
    }
    model = write_model(tmp_path / "made", plans, labels=labels_of(3))
    assert labels(model, image, tmp_path / "out").shape == (9, 20, 18)


def with_own_network(plans, *, name):
    found = copy.deepcopy(plans["configurations"][CONFIGURATION])
    found["architecture"]["network_class_name"] = "my.package.Net"
    plans["configurations"][name] = found


def test_a_network_that_is_not_used_may_be_any(image, tmp_path):
    model = write_model(tmp_path / "made", small_plans(), labels=labels_of(3))
    other = rewritten(model, tmp_path / "other", plans=lambda plans: with_own_network(plans, name="3d_own"))
    assert labels(other, image, tmp_path / "out").shape == (9, 20, 18)


def test_a_network_of_others_is_refused_by_its_name_with_what_can_be_done(image, tmp_path):
    model = write_model(tmp_path / "made", small_plans(), labels=labels_of(3))
    other = rewritten(model, tmp_path / "other", plans=lambda plans: with_own_network(plans, name=CONFIGURATION))
    told = r"network of my\.package\.Net; expected PlainConvUNet .* Nothing else is imported, .* nnUNetv2_predict"
    with pytest.raises(DataError, match=told):
        orchestrator.predict(other, image, output=tmp_path / "out", device="cpu")


def test_a_checkpoint_of_a_configuration_that_its_plans_do_not_have_is_refused_by_name(image, tmp_path):
    model = write_model(tmp_path / "made", small_plans(), labels=labels_of(3))
    file = model / "fold_0" / "checkpoint_final.pth"
    state = torch.load(file, weights_only=False)
    state["init_args"]["configuration"] = "3d_other"
    torch.save(state, file)
    with pytest.raises(DataError, match="no configuration 3d_other; there is 3d_fullres"):
        orchestrator.predict(model, image, output=tmp_path / "out", device="cpu")


def test_of_two_lists_of_channels_the_one_counts_that_nnunet_takes(image, tmp_path):
    def with_both(dataset):
        dataset |= {"modality": {"0": "0"}, "channel_names": {"0": "0", "1": "1"}}

    model = write_model(tmp_path / "made", small_plans(), labels=labels_of(3))
    other = rewritten(model, tmp_path / "other", dataset=with_both)
    np.testing.assert_array_equal(labels(other, image, tmp_path / "b"), labels(model, image, tmp_path / "a"))
    # Models that are averaged look at the same channels.
    (row,) = orchestrator.predict([model, other], image, output=tmp_path / "both", device="cpu")
    assert row.status == "predicted"
    changed = rewritten(model, tmp_path / "changed", dataset=lambda dataset: dataset.update(modality={"0": "MR"}))
    with pytest.raises(ConfigError, match=re.escape("channels ['MR']; expected ['0']")):
        orchestrator.predict([model, changed], image, output=tmp_path / "none", device="cpu")
