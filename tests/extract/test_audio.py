"""Decoding of every format, resampling against exact sines and sweeps, windows, the log-mel of a sine."""

import os
import sys

import numpy as np
import pytest
import torch

from dlink_adapter.extract.audio import AudioError, as_waveform, check_waveform, load_audio, log_mel, resample, windows

soundfile = pytest.importorskip("soundfile")

SECONDS = 2.0  # of a sweep


def sine(frequency, rate, seconds=1.0):
    return np.sin(2 * np.pi * frequency * np.arange(round(rate * seconds)) / rate).astype(np.float32)


def level_db(audio):
    middle = audio[len(audio) // 4 : -len(audio) // 4].astype(np.float64)
    return 10 * np.log10(2 * np.mean(middle**2) + 1e-20)


def sweep(top, rate):
    """From silence at 0 Hz to `top` Hz, evenly, with the frequency at each sample."""
    time = np.arange(round(SECONDS * rate)) / rate
    frequency = top * time / SECONDS
    return np.sin(np.pi * frequency * time).astype(np.float32), frequency


def loudest_db(audio):
    return 20 * np.log10(max(np.abs(audio).max(), 1e-10))


def write(path, audio, rate, subtype=None):
    soundfile.write(path, audio, rate, subtype=subtype)
    return path


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "PCM_U8"])
def test_sample_formats(tmp_path, subtype):
    audio = 0.5 * sine(440, 16_000)
    loaded = load_audio(write(tmp_path / "a.wav", audio, 16_000, subtype), 16_000)
    assert loaded.dtype == np.float32
    np.testing.assert_allclose(loaded, audio, atol=0.01 if subtype == "PCM_U8" else 1e-4)


@pytest.mark.parametrize("name", ["a.flac", "a.ogg", "a.mp3"])
def test_containers(tmp_path, name):
    loaded = load_audio(write(tmp_path / name, 0.5 * sine(440, 44_100, 2.0), 44_100), 16_000)
    assert len(loaded) / 16_000 == pytest.approx(2.0, abs=0.06)
    assert level_db(loaded) == pytest.approx(20 * np.log10(0.5), abs=0.3)


@pytest.mark.parametrize("channels", [2, 6])
def test_channels_are_averaged(tmp_path, channels):
    audio = np.random.default_rng(0).uniform(-1, 1, (8_000, channels)).astype(np.float32)
    loaded = load_audio(write(tmp_path / "a.wav", audio, 16_000, "FLOAT"), 16_000)
    np.testing.assert_allclose(loaded, audio.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize(("seconds", "rate"), [(0.1, 16_000), (600, 8_000), (1, 8_000), (1, 96_000)])
def test_lengths_and_rates(tmp_path, seconds, rate):
    loaded = load_audio(write(tmp_path / "a.wav", sine(440, rate, seconds), rate), 16_000)
    assert len(loaded) == round(seconds * 16_000)


def test_a_long_file_is_decoded_without_gaps_between_blocks(tmp_path):
    audio = np.random.default_rng(0).uniform(-1, 1, 600_000).astype(np.float32)
    np.testing.assert_array_equal(load_audio(write(tmp_path / "a.wav", audio, 16_000, "FLOAT"), 16_000), audio)


def test_silence_is_audio(tmp_path):
    loaded = load_audio(write(tmp_path / "a.wav", np.zeros(1_000), 16_000), 16_000)
    np.testing.assert_array_equal(loaded, np.zeros(1_000))


def noise(rate, seconds):
    return np.random.default_rng(0).uniform(-0.3, 0.3, round(rate * seconds)).astype(np.float32)


@pytest.mark.parametrize("kept", [0.5, 0.9])
@pytest.mark.parametrize("name", ["a.mp3", "a.ogg", "a.opus", "a.wav", "a.aiff", "a.flac"])
def test_a_file_that_was_cut_is_named_in_any_format(tmp_path, name, kept):
    path = tmp_path / name
    soundfile.write(path, noise(16_000, 4), 16_000, **({"format": "OGG", "subtype": "OPUS"} if "opus" in name else {}))
    whole = path.read_bytes()
    assert len(load_audio(path, 16_000)) / 16_000 == pytest.approx(4, abs=0.1)
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(AudioError, match=rf"{name}: .*(is cut short or damaged: it ends after|lost sync)"):
        load_audio(path, 16_000)


def test_a_header_that_was_never_finished_is_no_cut(tmp_path):
    path = write(tmp_path / "a.wav", noise(16_000, 1), 16_000)
    whole = bytearray(path.read_bytes())
    for size in (b"\xff\xff\xff\xff", b"\x00\x00\xff\x7f"):  # of a program that wrote to a pipe
        whole[4:8] = whole[40:44] = size
        path.write_bytes(whole)
        assert len(load_audio(path, 16_000)) == 16_000


def test_samples_are_those_of_the_file_alone(tmp_path):
    """A decoder that gives fewer samples than were asked for leaves the rest of a buffer as it was."""
    load_audio(write(tmp_path / "before.wav", np.full(160_000, 0.5), 16_000), 16_000)
    soundfile.write(tmp_path / "a.mp3", noise(16_000, 10), 16_000)
    frame = bytearray((tmp_path / "a.mp3").read_bytes())
    (tmp_path / "a.mp3").write_bytes(frame[:-300])  # one frame or two, which is no cut yet
    loaded = load_audio(tmp_path / "a.mp3", 16_000)
    assert 159_000 < len(loaded) < 160_000 and not (loaded == 0.5).any()


def liar(folder, kind):
    """A small file that promises much."""
    path = folder / f"a.{kind.split()[0]}"
    soundfile.write(path, noise(16_000, 2), 16_000)
    content = bytearray(path.read_bytes())
    if kind == "mp3 frames":
        place = max(content.find(b"Xing"), content.find(b"Info"))
        content[place + 8 : place + 12] = (2**31 - 1).to_bytes(4, "big")
    elif kind == "ogg granule":
        place = content.rfind(b"OggS")
        content[place + 6 : place + 14] = (2**40).to_bytes(8, "little")
        content[place + 22 : place + 26] = bytes(4)
        content[place + 22 : place + 26] = ogg_checksum(content[place:]).to_bytes(4, "little")
    else:
        content[24:28] = int(kind.split()[1]).to_bytes(4, "little")
    path.write_bytes(content)
    return path


def ogg_checksum(page):
    value = 0
    for byte in page:
        value ^= byte << 24
        for _ in range(8):
            value = ((value << 1) ^ (0x04C11DB7 if value & 0x80000000 else 0)) & 0xFFFFFFFF
    return value


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("mp3 frames", "it promises .* seconds at 16000 Hz, at most 3600 seconds .*: cut it into parts"),
        ("ogg granule", "it promises .* seconds at 16000 Hz"),
        ("wav 1", "expected a rate of 1000 to 768000 Hz, got 1"),
        ("wav 2147483647", "expected a rate of 1000 to 768000 Hz, got 2147483647"),
    ],
)
def test_what_a_header_promises_is_not_believed(tmp_path, kind, message):
    with pytest.raises(AudioError, match=message):
        load_audio(liar(tmp_path, kind), 48_000)


def test_hours_of_silence_in_a_small_file_are_not_decoded(tmp_path):
    path = tmp_path / "a.flac"
    with soundfile.SoundFile(path, "w", 1_000, 1) as file:
        for _ in range(37):
            file.write(np.zeros(100_000, np.float32))
    with pytest.raises(AudioError, match="it promises 3700 seconds at 1000 Hz, at most 3600 seconds"):
        load_audio(path, 16_000)


def test_many_channels_take_no_more_memory(tmp_path, monkeypatch):
    asked, read = [], soundfile.SoundFile.read
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *args, **kw: asked.append(args[1]) or read(*args, **kw))
    loaded = load_audio(write(tmp_path / "a.wav", np.full((4_000, 200), 0.25), 16_000), 16_000)
    assert max(asked) * 200 <= 1 << 18 and len(loaded) == 4_000


def test_any_name_that_a_file_can_have(tmp_path):
    path = write(tmp_path / "a.wav", sine(440, 16_000), 16_000).rename(tmp_path / os.fsdecode(b"\xff.wav"))
    assert len(load_audio(path, 16_000)) == 16_000
    with pytest.raises(AudioError, match="not readable: File name too long"):
        load_audio(tmp_path / ("x" * 300), 16_000)


def bad_file(folder, kind):
    path = folder / "clip.wav"
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("not audio at all " * 100)
    elif kind == "headerless":
        path.write_bytes(write(folder / "good.wav", sine(440, 8_000), 8_000).read_bytes()[:20])
    elif kind == "no samples":
        write(path, np.zeros(0), 16_000)
    elif kind == "one sample":
        write(path, np.ones(1), 44_100)  # a third of a sample at 16 kHz
    elif kind == "nan":
        write(path, np.array([0.0, np.nan, np.inf], np.float32), 16_000, "FLOAT")
    elif kind == "folder":
        path.mkdir()
    return path


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("missing", "no such file"),
        ("folder", "no such file"),
        ("empty", "empty"),
        ("text", "not readable as audio"),
        ("headerless", "not readable as audio"),
        ("no samples", "no samples"),
        ("one sample", "no samples"),
        ("nan", "2 of 3 samples are NaN or infinite"),
    ],
)
def test_a_bad_file_is_named_with_its_cause(tmp_path, kind, cause):
    path = bad_file(tmp_path, kind)
    with pytest.raises(AudioError, match=cause) as raised:
        load_audio(path, 16_000)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("audio", [np.zeros((2, 100)), np.zeros(0), 0.5, [0.0, float("nan")]])
def test_bad_arrays(audio):
    with pytest.raises(AudioError):
        check_waveform(audio)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 96_000, 192_000])
def test_a_sweep_survives_the_way_to_48_khz_and_back_where_both_rates_have_room(rate):
    lower = min(rate, 48_000) / 2
    audio, frequency = sweep(rate / 2, rate)
    there = resample(audio, rate, 48_000)
    back = resample(there, 48_000, rate)
    ideal, frequency_there = sweep(rate / 2, 48_000)
    # Against the sweep itself, sample by sample: level, time, images and aliases are all in the difference.
    for made, expected, at in ((there, ideal, frequency_there), (back, audio, frequency)):
        assert made.shape == expected.shape and made.dtype == np.float32
        for top, error in ((0.7, -80), (0.9, -55)):
            assert loudest_db((made - expected)[(at > 0.01 * lower) & (at < top * lower)]) < error
        beyond = (at > 1.02 * lower) & (at < 0.99 * rate / 2)  # the sweep ends with a click
        assert loudest_db(made[beyond]) < -100 if beyond.any() else rate <= 48_000
    spectra = [np.abs(np.fft.rfft(some.astype(np.float64))) for some in (audio, back)]
    hertz = np.arange(len(spectra[0])) / SECONDS
    heard = (hertz > 0.05 * lower) & (hertz < 0.9 * lower)  # the sweep's ends ripple in its spectrum
    assert np.abs(20 * np.log10((spectra[1] / spectra[0])[heard])).max() < 0.02


@pytest.mark.parametrize(("rate", "new_rate"), [(44_100, 16_000), (16_000, 8_000), (8_000, 44_100), (22_254, 48_000),
                                                (44_100, 47_999), (192_000, 8_000)])  # fmt: skip
def test_a_sine_at_any_two_rates(rate, new_rate):
    lower = min(rate, new_rate) / 2
    for share, error in ((0.1, -100), (0.5, -100), (0.92, -55), (1.01, -100), (1.9, -100)):
        if share * lower < rate / 2:
            expected = sine(share * lower, new_rate) if share < 1 else np.zeros(new_rate)
            middle = slice(new_rate // 4, -new_rate // 4)
            assert loudest_db((resample(sine(share * lower, rate), rate, new_rate) - expected)[middle]) < error


@pytest.mark.parametrize("samples", [2, 100, 500_001])
def test_a_resampled_length_is_rounded(samples):
    audio = np.random.default_rng(0).uniform(-1, 1, samples).astype(np.float32)
    assert resample(audio, 44_100, 48_000).shape == (round(samples * 160 / 147),)
    assert resample(audio, 192_000, 16_000).shape == (round(samples / 12),)


def test_a_click_keeps_its_time():
    click = np.zeros(44_100, np.float32)
    click[22_050] = 1
    assert resample(click, 44_100, 16_000).argmax() == 8_000


def test_equal_rates_change_nothing_and_need_no_soxr(monkeypatch):
    monkeypatch.setitem(sys.modules, "soxr", None)
    audio = sine(440, 16_000)
    assert resample(audio, 16_000, 16_000) is audio
    with pytest.raises(ImportError, match=r'soxr is needed here: pip install "dlink-adapter\[clap\]"'):
        resample(audio, 16_000, 8_000)


def test_windows_cover_a_clip_once():
    audio = np.arange(25 * 100, dtype=np.float32)
    pieces = windows(audio, 100, 10.0)
    assert [len(piece) for piece in pieces] == [1000, 1000, 500]
    np.testing.assert_array_equal(np.concatenate(pieces), audio)


@pytest.mark.parametrize(
    ("seconds", "expected"), [(10.4, [1000]), (10.5, [1000, 50]), (0.1, [10]), (10.0, [1000]), (20.0, [1000, 1000])]
)
def test_a_short_tail_counts_only_when_it_is_all_there_is(seconds, expected):
    pieces = windows(np.zeros(round(seconds * 100), np.float32), 100, 10.0)
    assert [len(piece) for piece in pieces] == expected


def test_log_mel_of_a_sine_and_of_silence():
    filters = torch.eye(257, dtype=torch.float64)  # every bin is its own band
    mel = log_mel(torch.from_numpy(sine(1_000, 16_000)), filters, fft_size=512, hop=160)
    assert mel.shape == (101, 257)
    assert mel.dtype == torch.float32
    # A full-scale sine in the middle of bin 32: half the sum of the Hann window, squared.
    torch.testing.assert_close(mel[50, 32], torch.tensor(20 * np.log10(128), dtype=torch.float32), atol=1e-3, rtol=0)
    assert (log_mel(torch.zeros(2, 1_600), filters, fft_size=512, hop=160) == -100).all()


def test_a_clip_in_any_form_is_the_same_waveform(tmp_path):
    audio = 0.5 * sine(440, 44_100)
    expected = load_audio(write(tmp_path / "a.wav", audio, 44_100, "FLOAT"), 16_000)
    for clip in (
        tmp_path / "a.wav",
        str(tmp_path / "a.wav"),
        (audio, 44_100),
        (audio.astype(np.float64), np.int64(44_100)),
        (torch.from_numpy(audio), 44_100),
        {"path": "a.wav", "array": audio, "sampling_rate": 44_100},
        {"array": audio.tolist(), "sampling_rate": 44_100},
    ):
        np.testing.assert_array_equal(as_waveform(clip, 16_000), expected)
    np.testing.assert_array_equal(as_waveform(audio, 16_000, sampling_rate=44_100), expected)
    np.testing.assert_array_equal(as_waveform((audio, 44_100), 16_000, sampling_rate=8_000), expected)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "uint8"])
def test_integers_are_scaled_by_their_dtype(dtype):
    audio, info = 0.5 * sine(440, 16_000), np.iinfo(dtype)
    integers = (audio * info.max).astype(dtype) if info.min else (audio * 127 + 128).astype(dtype)
    for samples in (integers, torch.from_numpy(integers)):
        np.testing.assert_allclose(as_waveform((samples, 16_000), 16_000), audio, atol=0.02)


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (np.zeros(9, np.float32), r"an array does not tell its rate: give \(array, rate in Hz\), or sampling_rate="),
        ((16_000, np.zeros(9)), "expected a rate of 1000 to 768000 Hz, got array"),
        ((np.zeros(9), 0), "expected a rate of 1000 to 768000 Hz, got 0"),
        ((np.zeros(9, np.int64), 16_000), "expected samples of floats, uint8, int8, int16, int32, got int64"),
        (({}, 16_000), "expected samples of floats.*got object"),
        ({"bytes": b"", "path": "a.wav"}, r"expected a file, .* or a dict with array and sampling_rate, got \{'bytes'"),
        (16_000, r"expected a file, .*, got 16000"),
    ],
)
def test_arrays_that_cannot_be_used(clip, message):
    with pytest.raises(AudioError, match=message):
        as_waveform(clip, 16_000)
