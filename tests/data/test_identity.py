"""Identifying fields of a DICOM file, its name and its folders appear nowhere but in a list that is asked for.

Every attribute of table E.1-1 of PS3.15 that a file can hold, private ones too, is set to a canary, and everything that
the commands print, write, warn, log and raise is searched for it.
"""

import contextlib
import csv
import io
import logging
import os
import re
import stat
import tarfile
import traceback
import warnings

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="pip install 'alexnet[medical]'")

from PIL import Image  # noqa: E402
from pydicom.datadict import dictionary_VR, tag_for_keyword  # noqa: E402
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.sequence import Sequence  # noqa: E402
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian  # noqa: E402

from alexnet import Predictor  # noqa: E402
from alexnet.cli.main import main  # noqa: E402
from alexnet.core.errors import UserError  # noqa: E402
from alexnet.data.identity import image_name, names_person, write_names  # noqa: E402
from alexnet.data.prepared import open_or_prepare  # noqa: E402
from alexnet.data.sources import open_source  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

# PS3.15 (2024), table E.1-1, by keyword, in the order of the table.
TABLE = """
AccessionNumber AcquisitionComments AcquisitionContextSequence AcquisitionDate AcquisitionDateTime
AcquisitionDeviceProcessingDescription AcquisitionFieldOfViewLabel AcquisitionProtocolDescription AcquisitionTime
AcquisitionUID ActualHumanPerformersSequence AdditionalPatientHistory AdmissionID AdmittingDate
AdmittingDiagnosesCodeSequence AdmittingDiagnosesDescription AdmittingTime AffectedSOPInstanceUID Allergies
AnnotationGroupDescription AnnotationGroupLabel AnnotationGroupUID Arbitrary AuthorObserverSequence BarcodeValue
BeamDescription BeamHoldTransitionDateTime BolusDescription BranchOfService CalibrationDate CalibrationTime
CameraOwnerName CassetteID ClinicalTrialCoordinatingCenterName ClinicalTrialProtocolEthicsCommitteeApprovalNumber
ClinicalTrialProtocolEthicsCommitteeName ClinicalTrialProtocolID ClinicalTrialProtocolName
ClinicalTrialSeriesDescription ClinicalTrialSeriesID ClinicalTrialSiteID ClinicalTrialSiteName
ClinicalTrialSponsorName ClinicalTrialSubjectID ClinicalTrialSubjectReadingID ClinicalTrialTimePointDescription
ClinicalTrialTimePointID CommentsOnRadiationDose CommentsOnThePerformedProcedureStep
ConceptualVolumeCombinationDescription ConceptualVolumeDescription ConceptualVolumeUID
ConfidentialityConstraintOnPatientDataDescription ConsultingPhysicianIdentificationSequence ConsultingPhysicianName
ContainerDescription ContainerIdentifier ContentCreatorIdentificationCodeSequence ContentCreatorName ContentDate
ContentSequence ContentTime ContextGroupExtensionCreatorUID ContrastBolusAgent ContributionDateTime
ContributionDescription CountryOfResidence CreationDate CreationTime CreatorVersionUID CurrentPatientLocation
CustodialOrganizationSequence DataSetTrailingPadding DateOfLastCalibration DateOfLastDetectorCalibration
DateOfSecondaryCapture DateTime DecompositionDescription DerivationDescription DetectorID DeviceDescription
DeviceLabel DeviceSerialNumber DeviceSettingDescription DeviceUID DigitalSignaturesSequence DigitalSignatureUID
DimensionOrganizationUID DischargeDiagnosisDescription DistributionAddress DistributionName DoseReferenceDescription
DoseReferenceUID EncapsulatedDocument EndAcquisitionDateTime EquipmentFrameOfReferenceDescription EthnicGroup
ExpectedCompletionDateTime FailedSOPInstanceUIDList FiducialUID FillerOrderNumberImagingServiceRequest
FillerOrderNumberProcedure FirstTreatmentDate FlowIdentifierSequence FrameAcquisitionDateTime FrameComments
FrameOfReferenceUID FrameReferenceDateTime GantryID GeneratorID GPSAltitude GPSDateStamp GPSLatitude GPSLongitude
GPSProcessingMethod GraphicAnnotationSequence HumanPerformerName HumanPerformerOrganization IconImageSequence
IdentifyingComments ImageComments ImagePresentationComments ImagingServiceRequestComments ImplantPartNumber
Impressions InstanceCoercionDateTime InstanceCreationDate InstanceCreationTime InstanceCreatorUID InstitutionAddress
InstitutionalDepartmentName InstitutionalDepartmentTypeCodeSequence InstitutionCodeSequence InstitutionName
InsurancePlanIdentification InterpretationAuthor InterpretationDiagnosisDescription InterpretationIDIssuer
InterpretationRecorder InterpretationText InterpretationTranscriber IrradiationEventUID IssuerOfAdmissionID
IssuerOfAdmissionIDSequence IssuerOfPatientID IssuerOfServiceEpisodeID LabelText LargePaletteColorLookupTableUID
LastMenstrualDate LensMake LensModel LensSerialNumber LensSpecification LongDeviceDescription MAC MakerNote
MaterialsCodeSequence MedicalAlerts MedicalRecordLocator MilitaryRank ModifiedAttributesSequence
ModifiedImageDescription ModifyingDeviceID MostRecentTreatmentDate NameOfPhysiciansReadingStudy
NamesOfIntendedRecipientsOfResults ObservationDateTime ObservationUID Occupation OperatorIdentificationSequence
OperatorsName OrderCallbackPhoneNumber OrderCallbackTelecomInformation OrderEnteredBy OrderEntererLocation
OriginalAttributesSequence OtherPatientIDs OtherPatientIDsSequence OtherPatientNames OverlayDate OverlayTime
PaletteColorLookupTableUID ParticipantSequence PatientAddress PatientAge PatientBirthDate PatientBirthName
PatientBirthTime PatientBreedDescription PatientComments PatientID PatientInstitutionResidence
PatientInsurancePlanCodeSequence PatientMotherBirthName PatientName PatientPrimaryLanguageCodeSequence
PatientReligiousPreference PatientSex PatientSize PatientSizeCodeSequence PatientState PatientTelecomInformation
PatientTelephoneNumbers PatientTransportArrangements PatientWeight PerformedLocation
PerformedProcedureStepDescription PerformedProcedureStepEndDate PerformedProcedureStepEndDateTime
PerformedProcedureStepEndTime PerformedProcedureStepID PerformedProcedureStepStartDate
PerformedProcedureStepStartDateTime PerformedProcedureStepStartTime PerformedStationAETitle
PerformedStationGeographicLocationCodeSequence PerformedStationName PerformedStationNameCodeSequence
PerformingPhysicianIdentificationSequence PerformingPhysicianName PersonAddress PersonIdentificationCodeSequence
PersonName PersonTelecomInformation PersonTelephoneNumbers PhysicianApprovingInterpretation PhysiciansOfRecord
PhysiciansOfRecordIdentificationSequence PhysiciansReadingStudyIdentificationSequence
PlacerOrderNumberImagingServiceRequest PlacerOrderNumberProcedure PlateID PreMedication PregnancyStatus
PrescriptionDescription PrescriptionNotesSequence PresentationDisplayCollectionUID PresentationSequenceCollectionUID
ProcedureStepCancellationDateTime ProcedureStepDiscontinuationReasonCodeSequence ProductExpirationDateTime
ProtocolName PyramidDescription PyramidLabel PyramidUID RadiationDoseIdentificationLabel
RadiationGenerationModeDescription RadiopharmaceuticalStartDateTime RadiopharmaceuticalStartTime
RadiopharmaceuticalStopDateTime RadiopharmaceuticalStopTime ReasonForOmissionDescription
ReasonForRequestedProcedureCodeSequence ReasonForStudy ReasonForSuperseding ReasonForTheImagingServiceRequest
ReasonForTheRequestedProcedure ReasonForVisit ReceivingAE ReferencedConceptualVolumeUID
ReferencedDigitalSignatureSequence ReferencedDoseReferenceUID ReferencedFiducialsUID ReferencedFrameOfReferenceUID
ReferencedGeneralPurposeScheduledProcedureStepTransactionUID ReferencedImageSequence ReferencedObservationUIDTrial
ReferencedPatientAliasSequence ReferencedPatientPhotoSequence ReferencedPatientSequence
ReferencedPerformedProcedureStepSequence ReferencedSOPInstanceMACSequence ReferencedSOPInstanceUID
ReferencedSOPInstanceUIDInFile ReferencedStudySequence ReferringPhysicianAddress
ReferringPhysicianIdentificationSequence ReferringPhysicianName ReferringPhysicianTelephoneNumbers RegionOfResidence
RelatedFrameOfReferenceUID RequestAttributesSequence RequestedContrastAgent RequestedProcedureComments
RequestedProcedureDescription RequestedProcedureID RequestedProcedureLocation RequestedSeriesDescription
RequestedSOPInstanceUID RequestingPhysician RequestingService RespiratoryMotionCompensationTechniqueDescription
ResponsibleOrganization ResponsiblePerson ResultsComments ResultsDistributionListSequence ResultsIDIssuer
ReviewerName ROIDateTime ROIDescription ROIGenerationDescription ROIInterpreter ROIName ROIObservationDescription
ROIObservationLabel RTAccessoryDeviceSlotID RTPhysicianIntentNarrative RTPlanDate RTPlanDescription RTPlanLabel
RTPlanName RTPlanTime ScheduledAdmissionDate ScheduledAdmissionTime ScheduledDischargeDate ScheduledDischargeTime
ScheduledHumanPerformersSequence ScheduledPatientInstitutionResidence
ScheduledPerformingPhysicianIdentificationSequence ScheduledPerformingPhysicianName
ScheduledProcedureStepDescription ScheduledProcedureStepEndDate ScheduledProcedureStepEndTime
ScheduledProcedureStepID ScheduledProcedureStepLocation ScheduledProcedureStepModificationDateTime
ScheduledProcedureStepStartDate ScheduledProcedureStepStartDateTime ScheduledProcedureStepStartTime
ScheduledStationAETitle ScheduledStationGeographicLocationCodeSequence ScheduledStationName
ScheduledStationNameCodeSequence ScheduledStudyLocation ScheduledStudyLocationAETitle SelectorAEValue
SelectorASValue SelectorDAValue SelectorDTValue SelectorLOValue SelectorLTValue SelectorPNValue SelectorSHValue
SelectorSTValue SelectorTMValue SelectorUIValue SelectorUTValue SeriesDate SeriesDescription SeriesInstanceUID
SeriesTime ServiceEpisodeDescription ServiceEpisodeID SetupTechniqueDescription ShieldingDeviceDescription
SlideIdentifier SmokingStatus SOPInstanceUID SourceConceptualVolumeUID SourceEndDateTime SourceFrameOfReferenceUID
SourceIdentifier SourceImageSequence SourceManufacturer SourceSerialNumber SourceStartDateTime SpecialNeeds
SpecimenAccessionNumber SpecimenDetailedDescription SpecimenIdentifier SpecimenPreparationSequence
SpecimenShortDescription SpecimenUID StartAcquisitionDateTime StationAETitle StationName StorageMediaFileSetUID
StructureSetDate StructureSetDescription StructureSetLabel StructureSetName StructureSetTime StudyComments StudyDate
StudyDescription StudyID StudyIDIssuer StudyInstanceUID StudyTime SynchronizationFrameOfReferenceUID
TelephoneNumberTrial TemplateExtensionCreatorUID TemplateExtensionOrganizationUID TextComments TextString
TimezoneOffsetFromUTC TopicAuthor TopicKeywords TopicSubject TopicTitle TrackingUID TransactionUID TreatmentDate
TreatmentMachineName TreatmentPositionGroupLabel TreatmentSite TreatmentTechniqueNotes TreatmentTime UDISequence UID
UniqueDeviceIdentifier UserContentLabel UserContentLongLabel VerbalSourceTrial
VerifyingObserverIdentificationCodeSequence VerifyingObserverName VerifyingObserverSequence VerifyingOrganization
VisitComments WaveformFilterDescription XRayDetectorID XRayDetectorLabel XRaySourceID
""".split()  # noqa: SIM905

NUMBER = "1.2.826.0.1.98765432109"
VALUES = {
    **dict.fromkeys(("AE", "SH", "CS"), "CANARY"),
    **dict.fromkeys(("LO", "ST", "LT", "PN", "UT", "UC", "UR"), "CANARY x"),
    "UI": NUMBER, "DA": "19010203", "TM": "010203.987654", "DT": "19010203010203.987654", "AS": "087Y",
    **dict.fromkeys(("DS", "IS"), "987654321"), **dict.fromkeys(("OB", "UN"), b"CANARY"),
}  # fmt: skip
CANARY = re.compile(rb"CANARY|1\.2\.826\.0\.1\.987|19010203|010203\.98|087Y|987654321", re.IGNORECASE)


def scan(number, classes=CTImageStorage, size=24, **changes):
    """The bytes of a CT image in which every attribute of the table, private ones too, is a canary."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = classes, NUMBER
    ds.file_meta.SourceApplicationEntityTitle, ds.file_meta.ImplementationVersionName = "CANARY", "CANARY"
    inside = Dataset()
    inside.PatientName, inside.StudyInstanceUID = "CANARY^inside", NUMBER
    for keyword in TABLE:
        tag = tag_for_keyword(keyword)
        if tag >> 16 in (0, 2):  # of messages and of the head of the file
            continue
        kind = dictionary_VR(tag)
        if kind == "SQ":
            ds.add_new(tag, "SQ", Sequence([inside]))
        elif kind in VALUES:
            ds.add_new(tag, kind, VALUES[kind])
    ds.SOPClassUID, ds.PatientID = classes, f"CANARY {number}"
    ds.private_block(0x0009, "CANARY maker", create=True).add_new(1, "LO", "CANARY private")
    pixels = np.random.default_rng(number).integers(-500, 500, (size, size)).astype(np.int16)
    ds.Rows = ds.Columns = size
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OW"
    for name, value in changes.items():
        setattr(ds, name, value)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def fill(root):
    """Two classes of DICOM files, and files that are refused, ignored, duplicated or have other suffixes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(20):
            place = root / ("clear", "opacity")[number % 2] / f"CANARY patient {number // 2 % 8}"
            place.mkdir(parents=True, exist_ok=True)
            suffix = (".dcm", "", ".1.2.826.0.1.98765432109", ".DCM")[number % 4]
            (place / f"CANARY{number}{suffix}").write_bytes(scan(number // 2 % 8 * 100 + number))
        place = root / "clear" / "CANARY others"
        place.mkdir()
        (place / "CANARY.jpg").write_bytes(scan(900))
        (place / "CANARY twice.dcm").write_bytes(scan(0))
        (place / "CANARY cut.dcm").write_bytes(scan(901)[:-100])
        (place / "CANARY report.dcm").write_bytes(scan(902, "1.2.840.10008.5.1.4.1.1.88.11"))
        (place / "CANARY colours.dcm").write_bytes(scan(903, PhotometricInterpretation="CANARY"))
        (place / "CANARY syntax.dcm").write_bytes(scan(904).replace(b"1.2.840.10008.1.2.1\0", b"1.2.826.0.1.98765432"))
        (place / "CANARY noise.dcm").write_bytes(b"CANARY" * 100)
        (place / "CANARY broken").write_bytes(scan(905)[:900].replace(b"LO", b"!!"))
        (place / "CANARY gone.dcm").symlink_to(place / "CANARY nowhere")
        Image.new("L", (24, 24), 77).save(place / "CANARY photo.png")
    (root / "opacity" / "CANARY twice.dcm").write_bytes(scan(0))
    (root / "CANARY beside.dcm").write_bytes(scan(906))


def everything(*folders):
    """The bytes of all files in the folders, their names, and the texts inside PNG files."""
    for path in (path for folder in folders for path in folder.rglob("*")):
        yield str(path).encode()
        if path.is_file():
            yield path.read_bytes()
            if path.suffix == ".png":
                with Image.open(path) as image:
                    yield repr(image.info).encode()


def check(text):
    assert not (found := CANARY.search(text)), text[max(0, found.start() - 200) : found.end() + 100]


@pytest.fixture
def work(tmp_path, monkeypatch):
    root = tmp_path / "scans"
    fill(root)
    monkeypatch.setenv("ALEXNET_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return root


def test_the_table_is_set(tmp_path):
    assert all(map(tag_for_keyword, TABLE))
    ds = pydicom.dcmread(io.BytesIO(scan(1)), stop_before_pixels=True)
    assert sum(CANARY.search(repr(element.value).encode()) is not None for element in ds) > 330
    assert {"PatientName", "StudyInstanceUID", "AccessionNumber", "OperatorsName"} <= set(ds.dir())


@pytest.mark.parametrize(
    "plots",
    [
        pytest.param(("roc",), id="quick"),
        pytest.param(
            ("attributions", "neighbours", "report"), id="report", marks=[pytest.mark.slow, pytest.mark.report]
        ),
    ],
)
def test_no_command_shows_an_identifying_field(work, capfd, caplog, recwarn, plots):
    caplog.set_level(logging.DEBUG)
    warnings.simplefilter("always")

    def run(*words):
        status = main([str(word) for word in words])
        out, err = capfd.readouterr()
        check((out + err).encode())
        return status, out, err

    status, out, err = run("prepare", work, "--size", "24")
    assert status == 0
    for reason in ("is truncated", "structured report", "unknown photometric", "unknown transfer syntax", "damaged"):
        assert reason in err
    assert "ignored, link to a folder or to a missing file" in err
    assert run("prepare", work, "--size", "24", "--strict")[0] == 2
    changes = ["model.width=0.25", "train.epochs=1", "train.batch_size=8", "train.operating_point=youden"]
    settings = [word for change in changes for word in ("--set", change)]
    status, out, err = run(
        "train", "photos-small", "--data", work, "--out", "run", "--precision", "fp32", *settings,
        "--set", "data.window=40/400",
    )  # fmt: skip
    assert status == 0, err
    assert "no medical device" in out
    assert run("evaluate", "run", "--predictions", "rows.csv")[0] in (0, 2)
    assert run("evaluate", "run", "--data", work, "--predictions", "rows.csv")[0] == 0
    files = sorted(path for path in work.rglob("CANARY*") if path.is_file() or path.is_symlink())
    status, out, err = run("predict", "run", *files, work / "CANARY missing.dcm")
    assert status == 2
    assert "image 00000" in out and "image 00001: " in out + err
    assert run("predict", "run", work, "--json")[0] == 2
    assert run("predict", "run", work, "--csv")[0] == 2
    assert run("predict", "run", work / "opacity", "--sort-into", "sorted")[0] == 2
    assert run("features", "run", work, "--layers", "relu5", "--out", "found")[0] == 0
    assert run("show", "predictions", "run", "--image", files[0])[0] == 0
    for what in plots:
        assert run("show", what, "run")[0] == 0
    parts = ("run", "found", "home")
    assert len(list(everything(*(work.parent / part for part in parts)))) > 40
    for text in everything(*(work.parent / part for part in parts)):
        check(text)
    check((work.parent / "rows.csv").read_bytes())
    check(repr([str(each.message) for each in recwarn]).encode())
    check(caplog.text.encode())
    rows = list(csv.reader((work.parent / "rows.csv").open()))
    assert all(re.fullmatch(r"image \d{5}|DICOM file [0-9a-f]{16}", row[0]) for row in rows[1:])

    status, _, _ = run("prepare", work, "--size", "24", "--names", "list.csv")
    listed = (work.parent / "list.csv").read_text()
    assert "CANARY0.dcm" in listed and listed.startswith("image,file\nimage 00000,")
    assert stat.S_IMODE((work.parent / "list.csv").stat().st_mode) & 0o077 == 0
    run("predict", "run", work, "--csv", "--names", "list2.csv")
    assert "CANARY0.dcm" in (work.parent / "list2.csv").read_text()


def test_no_exception_holds_an_identifying_field(work):
    from alexnet import create_model
    from alexnet.models.bundle import save_model

    save_model(create_model("small", num_classes=2, width=0.25, in_channels=3, seed=0).eval(), work.parent / "model")
    predictor = Predictor(work.parent / "model")
    others = work / "clear" / "CANARY others"
    for path in (*others.iterdir(), others / "CANARY missing.dcm"):
        for image in (path, *([path.read_bytes()] if path.exists() else [])):
            with contextlib.suppress(UserError):
                try:
                    predictor(image)
                except UserError as error:
                    check("".join(traceback.format_exception(error)).replace(str(work), "").encode())
                    raise


def test_labels_and_archives_of_dicom_files_show_numbers_too(work, tmp_path):
    files = sorted(str(path.relative_to(work)) for path in work.glob("*/CANARY patient*/*"))
    table = tmp_path / "labels.csv"

    def write(rows):
        table.write_text("file,label,split,group\n" + "".join(",".join(row) + "\n" for row in rows))

    rows = [
        (name, name.split("/")[0], ("train", "test")[number % 2], f"g{number % 2}") for number, name in enumerate(files)
    ]
    for bad in ([*rows, (rows[0][0], "clear", "train", "g1")], [(*row[:3], "CANARY group") for row in rows]):
        write(bad)
        with pytest.raises(UserError) as refused:
            open_or_prepare(open_source(str(work), labels=[table]), 24, home=tmp_path / "home")
        check("\n".join([refused.value.line, *refused.value.details]).encode())
    assert "is in train and test" in refused.value.line
    write([*rows, ("CANARY nowhere.dcm", "clear", "train", "")])
    dataset = open_or_prepare(open_source(str(work), labels=[table]), 24, home=tmp_path / "home")
    check(repr(dataset.meta).encode() + repr(dataset.names(np.arange(4))).encode())
    with tarfile.open(tmp_path / "scans.tar", "w") as tar:
        tar.add(work / "clear", "clear")
        tar.add(work / "opacity", "opacity")
    source = open_source(str(tmp_path / "scans.tar"))
    packed = open_or_prepare(source, 24, home=tmp_path / "home")
    check(repr(packed.meta).encode() + repr(packed.names(np.arange(len(packed.targets)))).encode())
    assert next(iter(source.records())).file.startswith("clear/CANARY")


def test_images_of_one_patient_stay_together(work, tmp_path):
    dataset = open_or_prepare(open_source(str(work)), 24, home=tmp_path / "home")
    assert dataset.has_groups
    for group in np.unique(dataset.groups):
        assert len(set(dataset.splits[dataset.groups == group])) == 1


def test_a_list_of_names_is_for_its_owner(tmp_path):
    os.umask(0o022)
    write_names(tmp_path / "list.csv", [(image_name(3), "a,b\udcff.dcm")])
    assert (tmp_path / "list.csv").read_bytes() == b'image,file\nimage 00003,"a,b\xff.dcm"\n'
    assert stat.S_IMODE((tmp_path / "list.csv").stat().st_mode) == 0o600
    with pytest.raises(UserError, match="--names"):
        write_names(tmp_path, [])


def test_the_content_decides_unless_the_suffix_is_of_another_format(tmp_path):
    for name, data, expected in (
        ("a.dcm", b"text", True), ("a.jpg", bytes(128) + b"DICM", False), ("a", bytes(128) + b"DICM", True),
        ("a.x", b"text", False), ("1.2.3", b"DICM", False), ("none.5", None, True), ("none.x", None, False),
    ):  # fmt: skip
        if data is not None:
            (tmp_path / name).write_bytes(data)
        assert names_person(tmp_path / name) == expected, name
