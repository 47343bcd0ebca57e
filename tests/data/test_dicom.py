"""DICOM files: pydicom's own samples against pydicom's own functions, made files, damage, and sizes that are lies."""

import io
import struct
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="pip install 'alexnet[medical]'")

from PIL import Image  # noqa: E402
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.pixels import apply_color_lut, apply_modality_lut  # noqa: E402
from pydicom.sequence import Sequence  # noqa: E402
from pydicom.uid import (  # noqa: E402
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from alexnet.config import DataSpec, Preprocessing, Recipe, override  # noqa: E402
from alexnet.core.dicom_view import PRESETS, DicomView, parse_window  # noqa: E402
from alexnet.core.errors import UserError  # noqa: E402
from alexnet.core.schema import from_json, to_json  # noqa: E402
from alexnet.data import dicom  # noqa: E402
from alexnet.data.decode import (  # noqa: E402
    ImageRefusedError,
    accepted,
    decode,
    image_size,
    preprocessing,
    read_pixels,
    readable_now,
)

SAMPLES = sorted(
    path for path in (Path(pydicom.__file__).parent / "data").rglob("*")
    if path.is_file() and path.stat().st_size > 132 and path.read_bytes()[128:132] == b"DICM"
)  # fmt: skip

NO_PIXELS, JPEG_LS, DOSE = "without pixels", "JPEG-LS, which is not read", "is a DICOM dose, not an image"
REFUSED = {
    **dict.fromkeys(("fall", "hotiron", "hotmetalblue", "pet", "pet20step", "spring", "summer", "winter"), "palette"),
    **dict.fromkeys(("chrJapMulti", "chrJapMultiExplicitIR6", "chrKoreanMulti", "chrSQEncoding"), NO_PIXELS),
    **dict.fromkeys(("chrSQEncoding1", "UN_sequence", "empty_charset_LEI", "no_meta_group_length"), NO_PIXELS),
    "priv_SQ": NO_PIXELS, "nested_priv_SQ": "does not state the size", "meta_missing_tsyntax": "no transfer syntax",
    **dict.fromkeys(("rtdose", "rtdose_1frame", "rtdose_expb", "rtdose_expb_1frame", "rtdose_rle"), DOSE),
    **dict.fromkeys(("rtdose_rle_1frame", "badVR"), DOSE),
    "rtplan": "treatment plan", "rtplan_truncated": "is truncated", "MR_truncated": "is truncated",
    "reportsi": "structured report", "reportsi_with_empty_number_tags": "structured report",
    "test-SR": "structured report", "waveform_ecg": "waveform", "liver_1frame": "segmentation",
    "liver_expb_1frame": "segmentation", "JPEG-lossy": "JPEG of 12 bits", "JPGExtended": "JPEG of 12 bits",
    **dict.fromkeys(("JPEGLSNearLossless_08", "JPEGLSNearLossless_16", "MR_small_jpeg_ls_lossless"), JPEG_LS),
    **dict.fromkeys(("SC_rgb_jls_lossy_line", "SC_rgb_jls_lossy_sample"), JPEG_LS),
    "SC_rgb_jpeg_gdcm": "JPEG Lossless", "GDCMJ2K_TextGBR": "damaged",  # which pydicom cannot decode either
    "JPEG2000-embedded-sequence-delimiter": "of another size than its header says",
}  # fmt: skip


def window(values, centre, width):
    return np.clip((values - centre + width / 2) / width, 0, 1)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_each_sample_is_decoded_as_by_pydicom_or_refused_for_its_reason(path):
    data = path.read_bytes()
    reason = REFUSED.get(path.stem)
    reason = "directory of DICOM files" if path.stem.startswith("DICOMDIR") else reason
    reason = NO_PIXELS if path.name.startswith("IM0000") else reason
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a file that is decoded, no line on stderr either
        if reason:
            with pytest.raises(ImageRefusedError, match=reason):
                decode(data)
            return
        found = np.asarray(decode(data))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = _expected(pydicom.dcmread(path))
    assert found.shape[:2] == image_size(data) == expected.shape[:2]
    assert np.abs(found.astype(float) - expected).max() <= 1e-3
    assert read_pixels(data, 8, 3).shape == (8, 8, 3)


def _expected(ds):
    """What pydicom's arithmetic gives for the first frame, 0 … 255."""
    several = int(ds.get("NumberOfFrames") or 1) > 1
    array = pydicom.pixels.pixel_array(ds, index=0 if several else None)
    if ds.SamplesPerPixel == 3:
        return np.rint(array * (255 / (2**ds.BitsStored - 1)))
    if ds.PhotometricInterpretation == "PALETTE COLOR":
        return (
            apply_color_lut(array, ds) >> 8
            if ds.RedPaletteColorLookupTableDescriptor[2] == 16
            else apply_color_lut(array, ds)
        )
    values = apply_modality_lut(array, ds).astype(float)
    if ds.get("WindowCenter") is not None:
        first = [
            value[0] if isinstance(value, pydicom.multival.MultiValue) else value
            for value in (ds.WindowCenter, ds.WindowWidth)
        ]
        grey = window(values, *map(float, first))
    else:
        low, high = np.percentile(values, (1, 99))
        grey = window(values, (low + high) / 2, high - low) if high > low else np.where(values > low, 1.0, 0.0)
        grey = np.full(values.shape, 0.5) if np.ptp(values) == 0 else grey
    return 255 * (1 - grey if ds.PhotometricInterpretation == "MONOCHROME1" else grey)


def made(pixels, syntax=ExplicitVRLittleEndian, **elements):
    """The bytes of a CT image with these stored values ``(H, W)`` or ``(H, W, 3)``."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CTImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = UID("1.2.3")
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    if pixels.ndim == 3:
        ds.PlanarConfiguration = 0
    ds.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 8 * pixels.itemsize
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(pixels.dtype.kind == "i")
    for name, value in elements.items():
        setattr(ds, name, value)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    ds.PixelData = elements.get("PixelData", pixels.astype(pixels.dtype.newbyteorder(order)).tobytes())
    ds["PixelData"].VR = "OW" if pixels.itemsize > 1 else "OB"
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


RAMP = np.arange(-2048, 2048, dtype=np.int16).reshape(64, 64)


def grey(data, view=DicomView()):  # noqa: B008
    return np.asarray(decode(data, view=view))


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_monochrome1_is_the_inverse_in_every_uncompressed_syntax(syntax):
    settings = {"WindowCenter": "40", "WindowWidth": "400", "RescaleSlope": "2", "RescaleIntercept": "-100"}
    light = grey(made(RAMP, syntax, **settings))
    dark = grey(made(RAMP, syntax, **settings, PhotometricInterpretation="MONOCHROME1"))
    assert np.allclose(light, 255 * window(2.0 * RAMP - 100, 40, 400), atol=1e-4)
    assert np.allclose(light + dark, 255)
    assert light.min() == 0 and light.max() == 255


def test_the_first_of_several_windows_counts_unless_another_is_asked_for():
    data = made(RAMP, WindowCenter=["40", "-600"], WindowWidth=["400", "1500"])
    assert np.allclose(grey(data), 255 * window(RAMP, 40, 400), atol=1e-4)
    assert np.allclose(grey(data, DicomView("lung")), 255 * window(RAMP, -600, 1500), atol=1e-4)
    assert np.allclose(grey(data, DicomView("-1.5/10")), 255 * window(RAMP, -1.5, 10), atol=1e-4)
    without = grey(made(RAMP))
    low, high = np.percentile(RAMP, (1, 99))
    assert np.allclose(without, 255 * window(RAMP, (low + high) / 2, high - low), atol=1e-4)
    for settings in ({"WindowCenter": "", "WindowWidth": "400"}, {"WindowCenter": "40", "WindowWidth": "0"}):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert np.array_equal(grey(made(RAMP, **settings)), without)


def test_a_wrong_window_is_refused_by_name():
    for text in ("40", "40/0", "40/-1", "nan/3", "1e9/3", "", "lungs"):
        with pytest.raises(UserError, match=r"give file, lung, brain, bone, abdomen, or CENTRE/WIDTH"):
            parse_window(text)
    assert parse_window("file") is None
    assert parse_window("brain") == PRESETS["brain"] == (40.0, 80.0)
    assert DataSpec(window="40/400", frame=2).view == DicomView("40/400", 2)
    with pytest.raises(UserError, match="window = '40'"):
        override(Recipe("a"), ["data.window=40"])


def test_signed_12_bit_values_lose_the_overlay_above_them():
    stored = (RAMP & 0xFFF).astype(np.uint16)
    clean = made(stored, BitsStored=12, HighBit=11, PixelRepresentation=1)
    overlaid = made(stored | 0x7000, BitsStored=12, HighBit=11, PixelRepresentation=1)
    expected = grey(made(RAMP))
    assert np.array_equal(grey(clean), expected)
    assert np.array_equal(grey(overlaid), expected)


def test_16_bits_keep_their_depth_until_the_window():
    """Levels that differ by 1 of 65,536 are told apart, and resizing averages them before they are rounded."""
    fine = np.repeat(np.arange(30000, 30064, dtype=np.uint16)[None], 64, axis=0)
    data = made(fine, WindowCenter="30031.5", WindowWidth="63")
    assert len(np.unique(np.rint(grey(data)))) == 64
    half = read_pixels(data, 32, 1)[16, :, 0].astype(float)
    pairs = 255 * window(fine, 30031.5, 63)[0].reshape(32, 2).mean(axis=1)
    assert np.abs(half[2:-2] - pairs[2:-2]).max() <= 0.75  # the filter is wider than two pixels


def test_palette_modality_table_and_16_bit_colours():
    entries = np.arange(256, dtype=np.uint16)
    palette = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, table in (("Red", entries), ("Green", 255 - entries), ("Blue", entries // 2)):
        palette[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        palette[f"{name}PaletteColorLookupTableData"] = (table * 256).astype(np.uint16).tobytes()
    index = np.arange(256, dtype=np.uint8).reshape(16, 16)
    found = np.asarray(decode(made(index, **palette)))
    assert np.array_equal(found, np.stack([index, 255 - index, index // 2], axis=-1))
    item = Dataset()
    item.add_new(0x00283002, "US", [256, 0, 16])
    item.add_new(0x00283003, "LO", "")
    item.add_new(0x00283004, "LO", "US")
    item.add_new(0x00283006, "OW", (1000 + 2 * entries).astype(np.uint16).tobytes())
    looked_up = grey(made(index, ModalityLUTSequence=Sequence([item]), WindowCenter="1255", WindowWidth="510"))
    assert np.allclose(looked_up, 255 * window(1000 + 2.0 * index, 1255, 510), atol=1e-4)
    colours = np.stack([index.astype(np.uint16) * 257] * 3, axis=-1)
    assert np.array_equal(np.asarray(decode(made(colours)))[..., 0], index)
    palette.pop("BluePaletteColorLookupTableData")
    with pytest.raises(ImageRefusedError, match="no palette"):
        decode(made(index, **palette))


def test_a_named_frame_and_its_own_window_and_rescale():
    frames = np.stack([np.full((8, 8), value, np.int16) for value in (0, 100, 200)])
    groups = []
    for number in range(3):
        values, voi, group = Dataset(), Dataset(), Dataset()
        values.RescaleIntercept, values.RescaleSlope, values.RescaleType = str(-number), "1", "HU"
        voi.WindowCenter, voi.WindowWidth = "100", str(400 * (number + 1))
        group.PixelValueTransformationSequence, group.FrameVOILUTSequence = Sequence([values]), Sequence([voi])
        groups.append(group)
    data = made(
        frames[0], NumberOfFrames=3, PixelData=frames.tobytes(), PerFrameFunctionalGroupsSequence=Sequence(groups)
    )
    for number in range(3):
        notes = []
        found = np.asarray(decode(data, view=DicomView(frame=number + 1), notes=notes))
        assert np.allclose(found, 255 * window(100 * number - number, 100, 400 * (number + 1)), atol=1e-4)
        assert notes == ["first of 3" if number == 0 else f"frame {number + 1} of 3"]
    with pytest.raises(ImageRefusedError, match=r"has 3 frame\(s\), so there is no frame 4"):
        decode(data, view=DicomView(frame=4))


def test_a_declared_burned_in_annotation_is_a_note():
    notes = []
    decode(made(RAMP, BurnedInAnnotation="YES"), notes=notes)
    assert notes == [dicom.BURNED_IN]


def test_files_of_one_patient_are_alike_and_named_by_a_hash():
    one, other, same = (dicom.patient(made(RAMP, PatientID=name)) for name in ("Doe", "Roe", "Doe "))
    assert one == same != other
    assert len(one[0]) == 64 and "Doe" not in one[0]
    assert dicom.patient(made(RAMP, StudyInstanceUID="1.2")) != dicom.patient(made(RAMP, StudyInstanceUID="1.3"))
    assert dicom.patient(made(RAMP, StudyInstanceUID="1.2"))[1] == dicom.NO_PATIENT
    assert dicom.patient(made(RAMP)) == ("", "")
    assert dicom.patient(made(RAMP)[:200]) == ("", "")


def test_limits_are_checked_in_the_header_before_anything_is_decoded(monkeypatch):
    monkeypatch.setattr(dicom, "_frame", lambda *arguments: pytest.fail("decoded"))
    large = made(np.zeros((1, 1), np.uint8), Rows=65535, Columns=65535)
    for read in (decode, image_size):
        with pytest.raises(ImageRefusedError, match="is 65535 × 65535 pixels, more than 64 million"):
            read(large)
    with pytest.raises(ImageRefusedError, match="one side more than 50 times the other"):
        decode(made(np.zeros((1, 51), np.uint8)))


def test_compressed_pixels_of_another_size_are_refused_unread():
    """A small header with a large codestream would need the memory of the codestream."""
    encoded = io.BytesIO()
    Image.new("L", (3000, 2000)).save(encoded, "JPEG")
    data = made(np.zeros((8, 8), np.uint8), JPEGBaseline8Bit, PixelData=encapsulate([encoded.getvalue()]))
    with pytest.raises(ImageRefusedError, match="of another size than its header says"):
        decode(data)


def test_a_deflated_bomb_is_not_inflated(monkeypatch):
    monkeypatch.setattr(dicom, "MAX_INFLATED", 1 << 20)
    head = made(np.zeros((8, 8), np.uint8), DeflatedExplicitVRLittleEndian)
    start = 144 + struct.unpack_from("<I", head, 140)[0]
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = head[:start] + packer.compress(bytes(64 << 20)) + packer.flush()
    with pytest.raises(ImageRefusedError, match="more than 1 MiB inflated"):
        decode(bomb)
    with pytest.raises(ImageRefusedError, match="is truncated"):
        decode(head[:-20])


def test_nested_and_endless_headers_end(monkeypatch):
    start = made(RAMP)[:132]
    meta = b"\x02\x00\x10\x00UI\x12\x001.2.840.10008.1.2\x00"  # implicit
    meta = meta[:6] + struct.pack("<H", len(meta) - 8) + meta[8:]
    opened = struct.pack("<HHI", 0x8, 0x1140, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    with pytest.raises(ImageRefusedError, match="too deeply nested sequences"):
        decode(start + meta + opened * 2000)
    monkeypatch.setattr(dicom, "MAX_ELEMENTS", 500)
    with pytest.raises(ImageRefusedError, match="has more than 500 DICOM elements"):
        decode(start + meta + struct.pack("<HHI", 0x8, 0x1, 0) * 1000)


def test_every_prefix_and_thousands_of_changed_copies_give_an_image_or_one_sentence():
    seen = set()
    for name in ("CT_small", "MR_small_RLE", "examples_palette", "SC_rgb_jpeg_dcmtk", "MR_small_jp2klossless"):
        (path,) = (path for path in SAMPLES if path.stem == name)
        data = path.read_bytes()[:40_000]
        random = np.random.default_rng(len(data))
        copies = [data[:stop] for stop in random.integers(132, len(data), 20)]
        for _ in range(60):
            copy = bytearray(data)
            for place in random.integers(132, min(len(data), 6000), random.integers(1, 6)):
                copy[place] = random.integers(0, 256)
            copies.append(bytes(copy))
        for copy in copies:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    decode(copy)
                except ImageRefusedError as error:
                    assert error.__cause__ is None and error.__context__ is None
                    seen.add(str(error))
    assert dicom.TRUNCATED in seen


def test_without_the_extra_a_dicom_file_gets_a_hint_and_is_tried_again(monkeypatch):
    now = accepted()
    assert "DICOM" in now["formats"]
    monkeypatch.setitem(sys.modules, "pydicom", None)
    monkeypatch.setattr(dicom, "is_installed", lambda: False)
    with pytest.raises(ImageRefusedError) as refused:
        decode(made(RAMP))
    assert str(refused.value) == "is a DICOM image: to read it, run pip install 'alexnet[medical]'"
    before = accepted()
    assert "DICOM" not in before["formats"]
    assert readable_now("image 00003", str(refused.value), before, now)
    assert readable_now("scan.dcm", "is not a JPEG image", before, now)
    assert not readable_now("a.txt", "is not a JPEG, HEIC, DICOM, PPM or PGM image (it looks like text)", before, now)


def test_the_default_window_leaves_every_json_as_it_was():
    plain = Preprocessing(3, 80, 80, 80, "unit", (0.0,) * 3, (1.0,) * 3)
    assert "window" not in to_json(plain) and "frame" not in to_json(plain)
    assert "window" not in to_json(Recipe("a"))["data"]
    assert set(to_json(Recipe("a"))["train"]).isdisjoint({"operating_point", "target_sensitivity", "positive_class"})
    assert preprocessing(80, 3) == preprocessing(80, 3, view=DicomView())
    assert "window" not in preprocessing(80, 3)
    lung = Preprocessing(3, 80, 80, 80, "unit", (0.0,) * 3, (1.0,) * 3, window="lung", frame=2)
    assert to_json(lung)["window"] == "lung"
    assert from_json(Preprocessing, to_json(lung)) == lung
    assert preprocessing(80, 3, view=lung.view) != preprocessing(80, 3)
