"""What batchgeneratorsv2's own transforms make of parameters that we drew, one after the other as nnU-Net's do."""

import numpy as np
import torch
from batchgeneratorsv2.transforms.intensity.contrast import ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import blur_dimension
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from numpy.typing import NDArray

from kernels.augmentation.intensity_transforms import add_noise
from orchestrator.training.feed.augmentation import Augmentation, PatchSettings


def augment_with_stock(
    image: NDArray[np.float32],
    segmentation: NDArray[np.int16],
    augmentation: Augmentation,
    *,
    settings: PatchSettings,
) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """Return image and labels of the patch; the arguments are the whole initial patch, (C, z, y, x) and (z, y, x).

    Only the noise is ours: its values cannot be given to the stock transform.
    """
    new_image, new_labels = _transform_space(
        torch.from_numpy(image), torch.from_numpy(segmentation), augmentation, settings
    )
    if augmentation.noise:
        generator = np.random.Generator(np.random.SFC64(augmentation.noise.seed))
        add_noise(new_image.numpy(), generator, sigma=augmentation.noise.sigma)
    for index in range(len(new_image)):
        _transform_intensities(new_image, index, augmentation, settings)
    axes = list(augmentation.mirror_axes)
    patch = MirrorTransform(()).apply({"image": new_image, "segmentation": new_labels}, axes=axes)
    return patch["image"].numpy(), patch["segmentation"].clamp(min=0)[0].numpy()


def _transform_space(
    image: torch.Tensor, segmentation: torch.Tensor, augmentation: Augmentation, settings: PatchSettings
) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches that are changed in plane go through the transform with their slices as channels."""
    flat = settings.in_plane
    patch = settings.patch_shape[1:] if flat else settings.patch_shape
    angles, scale = augmentation.angles_rad, augmentation.scale
    turned = (0.0, angles[0]) if flat and angles else angles
    transform = SpatialTransform(
        patch,
        0,
        random_crop=False,
        p_rotation=float(angles is not None),
        p_scaling=float(scale is not None),
        rotation=lambda dim, **_: turned[dim],
        scaling=lambda **_: scale,
        p_synchronize_scaling_across_axes=1,
        border_mode_seg="constant",
        padding_value_seg=-1,
    )
    channels = image.reshape(-1, *image.shape[2:]) if flat else image
    slices = segmentation if flat else segmentation[None]
    parameters = transform.get_parameters(image=channels)
    patch = transform.apply({"image": channels, "segmentation": slices}, **parameters)
    shape = settings.patch_shape
    return patch["image"].reshape(len(image), *shape).clone(), patch["segmentation"].reshape(1, *shape).clone()


def _transform_intensities(
    image: torch.Tensor, index: int, augmentation: Augmentation, settings: PatchSettings
) -> None:
    """Change one channel in place; a 2d patch has no axis of slices."""
    here = torch.tensor([0])
    channel = image[index : index + 1]
    channel = channel[:, 0] if settings.is_2d else channel
    sigmas = augmentation.blur_sigmas[index]
    if sigmas is not None:
        blurred = channel
        for axis, sigma in enumerate(sigmas[settings.is_2d :]):
            blurred = blur_dimension(blurred, sigma, axis, force_use_fft=False)
        channel.copy_(blurred)
    if (factor := augmentation.brightness[index]) is not None:
        channel.mul_(factor)
    if (factor := augmentation.contrast[index]) is not None:
        transform = ContrastTransform((1, 1), preserve_range=True, synchronize_channels=False)
        transform.apply({"image": channel}, apply_to_channel=here, multipliers=torch.tensor([factor]))
    if (factor := augmentation.low_resolution[index]) is not None:
        scales = torch.full((1, channel.ndim - 1), factor)
        if settings.in_plane and not settings.is_2d:
            scales[0, 0] = 1
        low = SimulateLowResolutionTransform(
            (1, 1), synchronize_channels=False, synchronize_axes=True, ignore_axes=None
        )
        low.apply({"image": channel}, apply_to_channel=here, scales=scales)
    for gammas, invert in ((augmentation.inverted_gamma, True), (augmentation.gamma, False)):
        if (gamma := gammas[index]) is not None:
            transform = GammaTransform((1, 1), 1, synchronize_channels=False, p_per_channel=1, p_retain_stats=1)
            transform.apply(
                {"image": channel},
                apply_to_channel=here,
                gamma=torch.tensor([gamma]),
                invert_image=torch.tensor([invert]),
                retain_stats=torch.tensor([True]),
            )
