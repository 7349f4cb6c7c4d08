"""The data sets of the papers: where a public one lies, and whom to ask for a licensed one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class PublicSet:
    """A data set that anybody may download.

    Args:
        title: What it is.
        url: Official address of its archive.
        terms: Licence, and what it asks for.
        files: Names that the unpacked set must hold, each somewhere below its folder.
        columns: Whitespace-separated columns that the first line of each of them has.
        sha256: Digest of the archive; None where its publisher names none.
        about: Where the set is described.
    """

    title: str
    url: str
    terms: str
    files: tuple[str, ...]
    columns: int
    about: str
    sha256: str | None = None


@dataclass(frozen=True)
class LicensedSet:
    """A data set that its owners hand out themselves, after asking.

    Args:
        title: What it is.
        ask: Where and how to ask for it.
        then: What to do with the files that come.
    """

    title: str
    ask: str
    then: str


_OPPORTUNITY_RUNS = ("ADL1", "ADL2", "ADL3", "ADL4", "ADL5", "Drill")

PUBLIC: Mapping[str, PublicSet] = MappingProxyType(
    {
        "opportunity": PublicSet(
            title="OPPORTUNITY activity recognition: 4 people, 24 runs, 242 sensor channels, 7 label tracks",
            url="https://archive.ics.uci.edu/static/public/226/opportunity+activity+recognition.zip",
            terms="CC BY 4.0; cite Roggen et al. 2010 or Chavarriaga et al. 2013",
            files=tuple(f"S{person}-{run}.dat" for person in range(1, 5) for run in _OPPORTUNITY_RUNS),
            columns=250,
            about="https://archive.ics.uci.edu/dataset/226",
        )
    }
)
"""Sets that `taskloom fetch` downloads."""

LICENSED: Mapping[str, LicensedSet] = MappingProxyType(
    {
        "deap": LicensedSet(
            "DEAP: EEG and physiological signals of 32 people watching music videos",
            "print, sign and send the end-user licence agreement found at "
            "https://www.eecs.qmul.ac.uk/mmv/datasets/deap/download.html (a permanent academic signs it)",
            "unpack data_preprocessed_python.zip (s01.dat to s32.dat) and give the folder to `reader: deap`",
        ),
        "utkface": LicensedSet(
            "UTKFace: 23,708 aligned and cropped faces with age, gender and ethnicity in the file name",
            "agree to non-commercial research use at https://susanqq.github.io/UTKFace/",
            "unpack UTKFace.tar.gz and give the folder of .jpg files to `reader: utkface`",
        ),
        "celeba": LicensedSet(
            "CelebA: 202,599 faces, 40 attributes, 10,177 identities, 5 landmarks",
            "agree to non-commercial research use at https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
            "keep img_align_celeba/ beside the list_*.txt files and give their folder to `reader: celeba`",
        ),
        "mtfl": LicensedSet(
            "MTFL: 12,995 photographs with 5 landmarks, gender, smile, glasses and pose",
            "agree to research use at https://mmlab.ie.cuhk.edu.hk/projects/TCDCN.html",
            "keep training.txt and testing.txt beside the image folders; give that folder to `reader: mtfl`",
        ),
        "cub": LicensedSet(
            "CUB-200-2011: 11,788 photographs of 200 bird species with 312 attributes",
            "read the terms (non-commercial research) at https://www.vision.caltech.edu/datasets/cub_200_2011/",
            "unpack CUB_200_2011.tgz and give the folder to `reader: cub`",
        ),
        "clothing": LicensedSet(
            "Clothing Attributes: 1,856 photographs with 26 attributes",
            "read the terms at https://purl.stanford.edu/tb980qz1002",
            "keep images/ and labels/ side by side and give their folder to `reader: clothing_attributes`",
        ),
        "rafdb": LicensedSet(
            "RAF-DB: faces with seven basic expressions",
            "write to its authors from an academic address, see http://www.whdeld.cn/rafdb/model1.html",
            "keep list_patition_label.txt beside the aligned images and give the folder to `reader: raf_db`",
        ),
        "affectnet": LicensedSet(
            "AffectNet: faces with expressions, valence and arousal",
            "a faculty member signs the agreement at https://mohammadmahoor.com/pages/databases/affectnet/",
            "give the folder of the CSV files and images to `reader: affectnet`",
        ),
        "emotionet": LicensedSet(
            "EmotioNet: addresses of images with facial action units",
            "ask at https://cbcsl.ece.ohio-state.edu/EmotionNetChallenge/",
            "download the images that the list names and give list and images to `reader: emotionet`",
        ),
        "aff_wild2": LicensedSet(
            "Aff-Wild2: videos with expressions, action units, valence and arousal per frame",
            "sign the agreement at https://ibug.doc.ic.ac.uk/resources/aff-wild2/",
            "keep cropped_aligned/ beside the annotation folders and give the folder to `reader: aff_wild2`",
        ),
    }
)
"""Sets that their owners hand out; `taskloom fetch` says how to ask for them."""
