"""Published results to stand beside measured ones, each with where it was read.

Most of them were read in tables of other people's repositories, which is said: check the paper
before you quote one. Results that could not be read anywhere are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

SUPPLEMENT = "CoopNet supplement, Table 1"
_MANYDEPTH = "results figure in ManyDepth's repository"
_RADEPTH = "results figure in RA-Depth's repository"
_GEOMETRY = "README of Unsupervised_geometry"
_UNOPTICAL = "README of UnOpticalFlow"
_OWN = "README of its repository"
_PAPER = "its paper"


@dataclass(frozen=True)
class PublishedDepth:
    """Depth on the 697 Eigen test images (raw Velodyne truth) or on Cityscapes, median scaling.

    Attributes:
        method: Its name.
        trained_on: K is KITTI, CS is Cityscapes.
        size: Input size, or "" where it was not given.
        scores: AbsRel, SqRel, RMSE, RMSElog, delta 1 to 3; fewer where only the first were given.
        source: Where it was read.
        is_refined: Whether the networks were tuned on each test image.
    """

    method: str
    trained_on: str
    size: str
    scores: tuple[float, ...]
    source: str
    is_refined: bool = False


@dataclass(frozen=True)
class PublishedOdometry:
    """Odometry on KITTI 09 and 10; None where it was not given.

    Attributes:
        method: Its name.
        ate5: Mean and standard deviation over snippets of 5 frames, for 09 and 10, metres.
        segments: t_err in percent and r_err in degrees per 100 m, for 09 and 10.
        source: Where it was read.
    """

    method: str
    ate5: tuple[tuple[float, float], tuple[float, float]] | None
    segments: tuple[tuple[float, float], tuple[float, float]] | None
    source: str


@dataclass(frozen=True)
class PublishedFlow:
    """Flow on the 200 training pairs of KITTI 2015; None where it was not given.

    Attributes:
        method: Its name.
        epe_px: EPE over all known pixels.
        fl: Outliers over all known pixels, a fraction.
        source: Where it was read.
    """

    method: str
    epe_px: float
    fl: float | None
    source: str


def _depth(
    method: str, trained_on: str, size: str, scores: str, source: str, refined: bool = False
) -> PublishedDepth:
    values = tuple(float(score) for score in scores.split("/"))
    return PublishedDepth(method, trained_on, size, values, source, refined)


DEPTH: tuple[PublishedDepth, ...] = (
    # The supplement says that all rows of its table are refined. Bian's equals the unrefined one
    # of its own README to two digits, so this may not hold for all of them.
    _depth("Zhou", "CS+K", "", ".198/1.836/6.565/.275/.718/.901/.960", SUPPLEMENT, True),
    _depth("GeoNet", "CS+K", "", ".153/1.328/5.737/.232/.802/.934/.972", SUPPLEMENT, True),
    _depth("DF-Net", "CS+K", "", ".146/1.182/5.213/.208/.818/.943/.978", SUPPLEMENT, True),
    _depth("Bian", "CS+K", "", ".128/1.047/5.240/.208/.846/.947/.976", SUPPLEMENT, True),
    _depth("CoopNet", "CS+K", "", ".122/.972/5.127/.202/.853/.952/.980", SUPPLEMENT, True),
    _depth("GeoNet", "CS", "", ".210/1.723/6.595/.281/.681/.891/.960", SUPPLEMENT, True),
    _depth("Struct2Depth M+S", "CS", "", ".153/1.109/5.557/.227/.796/.934/.975", SUPPLEMENT, True),
    _depth("GLNet", "CS", "", ".129/1.044/5.361/.212/.843/.938/.976", SUPPLEMENT, True),
    _depth("CoopNet", "CS", "", ".125/1.157/5.251/.209/.845/.944/.978", SUPPLEMENT, True),
    _depth(
        "Struct2Depth M+S", "K", "416x128", ".109/.825/4.750/.187/.874/.958/.983", _MANYDEPTH, True
    ),
    _depth("GLNet", "K", "416x128", ".099/.796/4.743/.186/.884/.955/.979", _MANYDEPTH, True),
    _depth("ManyDepth", "K", "640x192", ".090/.713/4.261/.170/.914/.966/.983", _MANYDEPTH, True),
    _depth("SfMLearner (repository)", "K", "416x128", ".183/1.595/6.709/.270/.734/.902/.959", _OWN),
    _depth(
        "GeoNet (scale-normalised)", "K", "416x128", ".149/1.060/5.567/.226/.796/.935/.975", _OWN
    ),
    _depth("DF-Net (repository)", "K", "576x160", ".145/1.290/5.612/.219/.811/.939/.977", _OWN),
    _depth("CC", "K", "832x256", ".148/1.149/5.464/.226/.815/.935/.973", _MANYDEPTH),
    _depth("CC (another version)", "K", "832x256", ".140/1.070/5.326/.217", _GEOMETRY),
    _depth("EPC++", "K", "832x256", ".141/1.029/5.350/.216/.816/.941/.976", _MANYDEPTH),
    _depth("Struct2Depth M", "K", "416x128", ".141/1.026/5.291/.215/.816/.945/.979", _MANYDEPTH),
    _depth("GLNet", "K", "416x128", ".135/1.070/5.230/.210", _GEOMETRY),
    _depth("SC-SfMLearner (Bian)", "K", "832x256", ".137/1.089/5.439/.217/.830/.942/.975", _OWN),
    _depth("SC-Depth ResNet-18", "K", "832x256", ".119/.857/4.950/.197/.863/.957/.981", _OWN),
    _depth("SC-Depth ResNet-50", "K", "832x256", ".114/.813/4.706/.191/.873/.960/.982", _OWN),
    _depth("Unsupervised_geometry", "K", "832x256", ".138/.970/5.460/.231", _OWN),
    _depth("Li et al. 2020", "K", "416x128", ".130/.950/5.138/.209/.843/.948/.978", _MANYDEPTH),
    _depth("Monodepth2", "K", "640x192", ".115/.903/4.863/.193/.877/.959/.981", _MANYDEPTH),
    _depth("Dynamo-Depth", "K", "640x192", ".112/.768/4.528/.184/.874/.961/.984", _OWN),
    _depth("Lite-Mono 3.1M", "K", "640x192", ".107/.765/4.561/.183/.886/.963/.983", _OWN),
    _depth("Lite-Mono 8M", "K", "640x192", ".101/.729/4.454/.178/.897/.965/.983", _OWN),
    _depth("MonoViT", "K", "640x192", ".099/.708/4.372/.175/.900/.967/.984", _OWN),
    _depth("RA-Depth", "K", "640x192", ".096/.632/4.216/.171/.903/.968/.985", _RADEPTH),
    _depth("SCIPaD", "K", "640x192", ".090/.650/4.056/.166/.918/.970/.985", _OWN),
    _depth(
        "ManyDepth (2 frames)", "K", "640x192", ".098/.770/4.459/.176/.900/.965/.983", _MANYDEPTH
    ),
    _depth("DualRefine (2 frames)", "K", "640x192", ".087/.698/4.234/.170/.914/.967/.983", _OWN),
    _depth("Hariat et al. 2025", "K", "", ".082/.604/4.108/.162/.928/.968/.985", _PAPER),
)

CITYSCAPES: tuple[PublishedDepth, ...] = (
    _depth("SQLDepth", "CS", "512x192", ".106", _OWN),
    _depth("DynamicDepth", "CS", "", ".104", _OWN),
    _depth("ProDepth (several frames)", "CS", "512x192", ".095", _OWN),
)

ODOMETRY: tuple[PublishedOdometry, ...] = (
    PublishedOdometry("SfMLearner (repository)", ((0.016, 0.009), (0.013, 0.009)), None, _OWN),
    PublishedOdometry("CC", ((0.012, 0.007), (0.012, 0.008)), None, _GEOMETRY),
    PublishedOdometry("EPC++", ((0.012, 0.007), (0.013, 0.008)), None, _GEOMETRY),
    PublishedOdometry("GLNet", ((0.011, 0.006), (0.011, 0.009)), None, _GEOMETRY),
    PublishedOdometry(
        "Unsupervised_geometry", ((0.0098, 0.0059), (0.0090, 0.0074)), None, _GEOMETRY
    ),
    PublishedOdometry("SC-SfMLearner (Bian)", None, ((11.2, 3.35), (10.1, 4.96)), _OWN),
    PublishedOdometry("SC-SfMLearner (Bian), CS+K", None, ((8.24, 2.19), (10.7, 4.58)), _OWN),
    PublishedOdometry("SC-Depth", None, ((7.31, 3.05), (7.79, 4.90)), _OWN),
    PublishedOdometry("SC-Depth with SLAM", None, ((5.08, 1.05), (4.32, 2.34)), _OWN),
    PublishedOdometry("FeatDepth", None, ((8.75, 2.11), (10.67, 4.91)), "issue 24 of its code"),
    PublishedOdometry("SCIPaD", None, ((7.43, 2.46), (9.82, 3.87)), _OWN),
)

FLOW_2015: tuple[PublishedFlow, ...] = (
    PublishedFlow("DF-Net (repository)", 7.45, 0.2695, _OWN),
    PublishedFlow("UnFlow", 8.80, 0.2327, _UNOPTICAL),
    PublishedFlow("OAFlow", 8.88, 0.312, _UNOPTICAL),
    PublishedFlow("GLNet", 8.35, None, _GEOMETRY),
    PublishedFlow("EPC++", 5.84, None, _GEOMETRY),
    PublishedFlow("CC", 5.66, None, _GEOMETRY),
    PublishedFlow("Unsupervised_geometry", 5.66, None, _GEOMETRY),
)
