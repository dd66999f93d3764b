"""Every setting, with its meaning; the other files of this folder override some of them.

    python -m experiments.train --config=configs/default.py --workdir=runs/default

trains ResNet-8 on scikit-learn's digits, in about half a minute on two cores.
Change any setting from the command line: --config.training.epochs=5 --config.data.exclude=3
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0

    config.data = ConfigDict()
    # A TFDS image classification set, "folder:PATH", "npz:FILE" (docs/data.md), or "text:FILE" (docs/text.md).
    config.data.name = "digits"
    config.data.dir = ""  # the TFDS folder; empty: TFDS_DATA_DIR, else the default of TFDS; or another PATH or FILE
    config.data.image_size = 0  # resize the central square to this side, in pixels; 0: as stored
    config.data.channels = 0  # 1 or 3: convert to greyscale or colour; 0: as stored
    config.data.class_names = ""  # "cat,dog": the classes by class number; empty: as stored
    config.data.stream = False  # leave images in their files, for sets larger than memory; needs image_size and Grain
    config.data.crop = ""  # "resized": train on random areas of streamed images, 8% to 100%, resized
    config.data.mean = ()  # of each channel, 0..1, for the normalisation; empty: of the training images
    config.data.std = ()
    # Share of the training images to hold out, the same of each class. If a folder or npz file has no test images,
    # these become the test images.
    config.data.validation = 0.0
    config.data.exclude = ""  # classes to leave out of training, such as "3,5" or "cat", for a retrained reference
    config.data.pad = 1  # random crop after padding by this many pixels
    config.data.pad_mode = "reflect"  # or "zeros": black, as torchvision's RandomCrop pads
    config.data.flip = False  # random horizontal flip
    config.data.cutout = 0  # side of a random square set to the mean colour; 0: none
    # For "text:FILE" (docs/text.md), which needs pad, flip and cutout to be 0.
    config.data.test = 0.0  # share of the texts of each class for the test split, if the file has none
    config.data.strip = ""  # "newsgroups": remove headers, footers and quotes, as scikit-learn does
    config.data.vocabulary = 20000  # tokens, including padding and unknown words; up to 65536
    config.data.length = 128  # tokens of a text; longer ones are cut
    config.data.word_dropout = 0.0  # share of the tokens that a training step drops at random

    config.model = ConfigDict()
    config.model.name = "resnet8"
    config.model.width = 0  # channels of the first stage; 0: the network's default width
    config.model.stem = "auto"  # "cifar", "strided", "imagenet", or by image size: downsampling of the first layers
    config.model.dtype = "float32"  # of the computation: "float32" or "bfloat16"
    config.model.layers = 0  # encoder blocks of text_encoder; 0: 2
    config.model.convolution = "xla"  # or "cpu": our own convolutions, which train faster on CPUs

    config.training = ConfigDict()
    config.training.start_from = ""  # a workdir to take initial variables from; empty: random ones
    config.training.head = "trained"  # or "ridge": fit only a linear head on start_from, in closed form
    config.training.epochs = 15
    config.training.batch_size = 64
    config.training.last_batch = "drop"  # or "keep": end an epoch with a smaller batch of the remaining images
    config.training.optimiser = "sgd"  # or "adamw", which is common for transformers and ConvNeXt
    config.training.learning_rate = 0.2  # the peak
    config.training.schedule = "one-cycle"  # or "cosine"
    config.training.warmup = 0.2  # share of the steps in which the rate rises
    config.training.momentum = 0.9  # Nesterov; for adamw, the decay of the first moment
    config.training.weight_decay = 5e-4  # on kernels only: not on biases, nor on batch norm
    config.training.norm_bias_rate = 1.0  # factor on the learning rate of the biases of norms
    config.training.label_smoothing = 0.0
    config.training.gradient = "jax"  # or "torch", "torch-bfloat16": use PyTorch, on CPUs 2 to 3 times faster

    config.orthogonality = ConfigDict()
    config.orthogonality.penalty = "so"  # none, so, dso, srip, ocnn
    config.orthogonality.weight = 1e-3  # that of the prototype; the paper's is unknown
    config.orthogonality.schedule = ((0, 1.0),)  # from epoch e on the weight is multiplied by f: ((e, f), ...)
    config.orthogonality.layers = ""  # regular expression on the module path; empty: every convolution

    config.features = ConfigDict()
    config.features.penalty = "none"  # none, decorrelation, class-means, ownership: on the last features
    config.features.weight = 0.0

    config.head = ConfigDict()  # for training.head = "ridge": docs/exact.md
    config.head.stages = 6  # last stages of the backbone: means and maxima of their channels
    config.head.flip = True  # average features over an image and its mirror image
    config.head.random_features = 0  # additional random ReLU features
    config.head.ridge = 1.0  # penalty on the squared weights, against the sum over all images
    config.head.scale = 10.0  # of the logits: the target is this for the class of an image and 0 for others
    config.head.keep_features = True  # of each training image, so that single images can be forgotten

    config.checkpoint = ConfigDict()
    config.checkpoint.every = 1  # epochs
    config.checkpoint.keep = 2  # newest checkpoints to keep

    config.statistics = ConfigDict()
    config.statistics.batch_size = 256
    config.statistics.features = 4000  # training images whose last features are stored; 0: none
    config.statistics.cached_inputs = 0  # of these, images with stored inputs of the last kernels, for concept-erasure
    return config
