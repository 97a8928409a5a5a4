"""Is it read from a picture how it was painted, and does no text, however hostile, crash or hang the reader?"""

import io
import json
import struct
import time
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mapo_studio.trainer.preferences.io.comfy_workflow import loras
from mapo_studio.trainer.preferences.io.infotext import GenerationInfo, from_graph, from_parameters, read_infotext
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

A1111 = """a cat on a roof, <lora:fluffy:0.8> masterpiece
second line, (soft light:1.2)
Negative prompt: dog, blurry
more of what is not wanted
Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 4294967295, Size: 512x768, \
Model hash: 31e35c80fc, Model: sd_xl_base_1.0, Lora hashes: "fluffy: 1f2e, other: 3c4d", Version: v1.10.1"""


def png(**texts):
    info, file = PngInfo(), io.BytesIO()
    for name, text in texts.items():
        info.add_itxt(name, text) if not text.isascii() else info.add_text(name, text)
    Image.new("RGB", (4, 4)).save(file, "PNG", pnginfo=info)
    return file.getvalue()


def test_what_a1111_writes_is_read():
    assert read_infotext(png(parameters=A1111)) == GenerationInfo(
        prompt="a cat on a roof, masterpiece second line, (soft light:1.2)",
        seed="4294967295",
        sampler="DPM++ 2M Karras",
        model="sd_xl_base_1.0",
        lora="fluffy:0.8",
    )


@pytest.mark.parametrize(
    ("text", "prompt", "seed"),
    [
        ("just a prompt", "just a prompt", None),
        ("a, b: c, d: e", "a, b: c, d: e", None),
        ("Steps: 1, Seed: 2", None, "2"),
        ("Negative prompt: bad\nSteps: 1, Seed: 2", None, "2"),
        ("cat\nSteps: 1, Seed: 2\nTemplate: {cat|dog}", "cat", "2"),
        ("cat\nSteps: up the hill\nSteps: 1, Seed: 2", "cat Steps: up the hill", "2"),
        ('cat\nSteps: 1, ADetailer prompt: "a, Seed: 9, \\"b\\"", Seed: 2', "cat", "2"),
        ('cat\nSteps: 1, Seed: 2, Broken: "never closed', "cat", "2"),
        ("cat\nSteps: 1, Seed: ", "cat", None),
        ("", None, None),
        ("кот на крыше 🐈\nSteps: 1, Seed: 2", "кот на крыше 🐈", "2"),
    ],
)
def test_variants_of_a1111s_text(text, prompt, seed):
    found = from_parameters(text)
    assert (found.prompt, found.seed) == (prompt, seed)


def test_loras_are_taken_from_their_hashes_where_the_prompt_names_none():
    assert from_parameters('cat\nSteps: 1, Lora hashes: "one: 1f, two: 2a", Model hash: ab').lora == "one, two"
    assert from_parameters("cat\nSteps: 1, Model hash: ab").model == "ab"


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
@pytest.mark.parametrize("encoding", ["utf-16-be", "utf-16-le"])
def test_the_user_comment_of_jpeg_and_webp_is_read(kind, encoding):
    exif, file = Image.Exif(), io.BytesIO()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"UNICODE\0" + A1111.encode(encoding)
    Image.new("RGB", (4, 4)).save(file, kind, exif=exif)
    assert read_infotext(file.getvalue()).seed == "4294967295"
    assert read_infotext(file.getvalue()).prompt.startswith("a cat on a roof, masterpiece")


def test_comfyui_webp_holds_the_graph_in_exif():
    exif, file = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Model] = "prompt:" + json.dumps(graph())
    Image.new("RGB", (4, 4)).save(file, "WEBP", exif=exif)
    assert read_infotext(file.getvalue()).prompt == "a cat"


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def graph(**changes):
    nodes = {
        "4": node("CheckpointLoaderSimple", ckpt_name="sdxl.safetensors"),
        "5": node("EmptyLatentImage", width=512, height=512, batch_size=1),
        "10": node("LoraLoader", model=["4", 0], clip=["4", 1], lora_name="fluffy.safetensors", strength_model=0.75),
        "6": node("CLIPTextEncode", text="a cat", clip=["10", 1]),
        "7": node("CLIPTextEncode", text="a dog", clip=["10", 1]),
        "3": node(
            "KSampler",
            seed=18446744073709551615,
            steps=20,
            sampler_name="euler",
            scheduler="karras",
            model=["10", 0],
            positive=["6", 0],
            negative=["7", 0],
            latent_image=["5", 0],
        ),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", images=["8", 0], filename_prefix="ComfyUI"),
    }
    return {**nodes, **changes}


def test_comfyuis_graph_is_followed():
    assert read_infotext(png(prompt=json.dumps(graph()), workflow="{}")) == GenerationInfo(
        "a cat", "18446744073709551615", "euler karras", "sdxl.safetensors", "fluffy.safetensors:0.75"
    )


def test_the_graph_is_read_where_the_parameters_hold_no_prompt():
    assert read_infotext(png(parameters="Steps: 3", prompt=json.dumps(graph()))).prompt == "a cat"


def of_positive(*changes, positive="20"):
    sampler = graph()["3"]
    return graph(**{"3": {**sampler, "inputs": {**sampler["inputs"], "positive": [positive, 0]}}}, **dict(changes))


PASSED_THROUGH = {
    "guidance": of_positive(("20", node("FluxGuidance", guidance=3.5, conditioning=["6", 0]))),
    "ControlNet": of_positive(
        ("20", node("ControlNetApplyAdvanced", positive=["6", 0], negative=["7", 0], control_net=["21", 0], image="x")),
        ("21", node("ControlNetLoader", control_net_name="canny")),
    ),
    "area": of_positive(("20", node("ConditioningSetArea", conditioning=["6", 0], width=64))),
    "an unknown switch": of_positive(("20", node("Switch of some pack", input1=["6", 0], choose="first"))),
    "a node of text": of_positive(
        ("20", node("CLIPTextEncode", text=["21", 0], clip=["10", 1])),
        ("21", node("PrimitiveStringMultiline", value="a cat")),
    ),
    "joined texts": of_positive(
        ("20", node("CLIPTextEncode", text=["21", 0])),
        ("21", node("StringConcatenate", string_a=["22", 0], string_b="cat", delimiter=", ")),
        ("22", node("Text box", text="a")),
    ),
    "a drawn wildcard": of_positive(
        ("20", node("CLIPTextEncode", text=["21", 0])),
        ("21", node("ImpactWildcardProcessor", wildcard_text="a {cat|dog}", populated_text="a cat", mode="populate")),
    ),
    "both encoders of SDXL": of_positive(
        ("20", node("CLIPTextEncodeSDXL", text_g="a cat", text_l="a cat", width=1024))
    ),
    "both encoders of Flux": of_positive(("20", node("CLIPTextEncodeFlux", clip_l="cat", t5xxl="a cat", guidance=3.5))),
}


@pytest.mark.parametrize("way", PASSED_THROUGH)
def test_the_prompt_is_found_through(way):
    assert set(from_graph(json.dumps(PASSED_THROUGH[way])).prompt.replace("cat a", "a cat").split()) == {"a", "cat"}
    assert "dog" not in from_graph(json.dumps(PASSED_THROUGH[way])).prompt


def test_a_combination_is_both_texts_in_order():
    combined = of_positive(
        ("20", node("ConditioningCombine", conditioning_1=["6", 0], conditioning_2=["21", 0])),
        ("21", node("CLIPTextEncode", text="on a roof")),
    )
    assert from_graph(json.dumps(combined)).prompt == "a cat, on a roof"


def test_a_custom_sampler_is_followed_through_its_guider():
    custom = {
        "1": node("SamplerCustomAdvanced", noise=["2", 0], guider=["3", 0], sampler=["4", 0], sigmas=["5", 0]),
        "2": node("RandomNoise", noise_seed=77),
        "3": node("BasicGuider", model=["6", 0], conditioning=["7", 0]),
        "4": node("KSamplerSelect", sampler_name="euler"),
        "5": node("BasicScheduler", scheduler="simple", steps=4, model=["6", 0]),
        "6": node("UNETLoader", unet_name="flux1-dev.safetensors"),
        "7": node("CLIPTextEncode", text="a cat"),
    }
    assert from_graph(json.dumps(custom)) == GenerationInfo(
        "a cat", "77", "euler simple", "flux1-dev.safetensors", None
    )


def test_of_two_passes_the_first_one_says_how_it_was_painted():
    second = node("KSampler", seed=5, steps=9, positive=["7", 0], latent_image=["31", 0], model=["10", 0])
    found = from_graph(
        json.dumps({"30": second, "31": node("LatentUpscale", samples=["3", 0]), **graph()}),
    )
    assert (found.prompt, found.seed) == ("a cat", "18446744073709551615")


def test_a_seed_may_come_from_a_node_of_its_own():
    seeded = graph(**{"50": node("PrimitiveInt", value=123)})
    seeded["3"]["inputs"]["seed"] = ["50", 0]
    assert from_graph(json.dumps(seeded)).seed == "123"


def test_the_rows_of_a_stacked_loader_are_loras():
    rows = node(
        "Power Lora Loader (rgthree)",
        model=["4", 0],
        lora_1={"on": True, "lora": "one.safetensors", "strength": 0.5},
        lora_2={"on": False, "lora": "two.safetensors", "strength": 1},
    )
    assert from_graph(json.dumps(graph(**{"10": rows}))).lora == "one.safetensors:0.5"


@pytest.mark.parametrize(
    ("inputs", "lora"),
    [
        ({"lora_name": "taste.safetensors"}, "taste.safetensors:0.5"),
        ({"lora_name": "none"}, None),
        ({"lora_name": "old.safetensors", "lora_path": "/runs/new.safetensors"}, "/runs/new.safetensors:0.5"),
        ({"lora_name": "old.safetensors", "lora_path": ["9", 0]}, None),
    ],
    ids=["by name", "none", "a path wins", "a link tells no name"],
)
def test_our_own_loader_has_one_strength_and_may_be_given_a_path(inputs, lora):
    loader = node("MaPOLoadLoRA", model=["4", 0], strength=0.5, schedule="annealed", power=2.0, **inputs)
    assert from_graph(json.dumps(graph(**{"10": loader}))).lora == lora


def test_the_loras_of_a_graph_are_told_apart_whatever_is_in_their_names():
    second = node("LoraLoaderModelOnly", model=["4", 0], lora_name="a, b:1.safetensors", strength_model=1)
    first = node("MaPOLoadLoRA", model=["11", 0], lora_name="taste.safetensors", strength=0.5)
    assert loras(json.dumps(graph(**{"10": first, "11": second}))) == [
        ("a, b:1.safetensors", 1),
        ("taste.safetensors", 0.5),
    ]
    assert loras("no graph") == loras("[]") == loras("{}") == []


def ring(length):
    return {
        "s": node("KSampler", seed=1, steps=1, positive=["0", 0], model=["0", 0]),
        **{str(n): node("Loop", conditioning=[str((n + 1) % length), 0], model=["s", 0]) for n in range(length)},
    }


STRANGE_GRAPHS = {
    "deep JSON": "[" * 2_000_000,
    "deep objects": '{"a":' * 200_000,
    "cycle": json.dumps(ring(3)),
    "long cycle": json.dumps(ring(20_000)),
    "a node that feeds itself": json.dumps({"s": node("KSampler", seed=1, steps=1, positive=["s", 0])}),
    "not a graph": "[1, 2]",
    "no JSON": "{'a'",
    "numbers": "3",
    "nothing": "",
    "inputs that are none": json.dumps({"1": {"inputs": [1]}, "2": {"inputs": None}, "3": 4, "4": {}}),
    "links to nowhere": json.dumps({"s": node("KSampler", seed=[9], steps=[[]], positive=["x", 0], model=[{}, 0])}),
    "endless number": '{"s": {"inputs": {"seed": ' + "9" * 3_000_000 + "}}}",
    "not a number": '{"s": {"inputs": {"seed": NaN, "steps": 1e999, "positive": ["s", 0]}}}',
    "many samplers": json.dumps(
        {str(n): node("KSampler", seed=n, steps=1, positive=["0", 0], latent=[str(n + 1), 0]) for n in range(5000)}
    ),
    "a prompt of megabytes": json.dumps(graph(**{"6": node("CLIPTextEncode", text="cat " * 500_000)})),
    "more than is looked at": json.dumps(graph(**{"11": node("Load", image="A" * 5_000_000)})),
}


@pytest.mark.parametrize("what", STRANGE_GRAPHS)
def test_no_graph_crashes_or_hangs(what):
    start = time.process_time()
    found = from_graph(STRANGE_GRAPHS[what])
    assert time.process_time() - start < 5
    assert len(found.prompt or "") <= 20_000


@pytest.mark.parametrize(
    "text",
    [
        "x" * 10_000_000,
        "Steps: " * 300_000,
        "a: " * 1_000_000,
        "\nSteps: 1" + ", a: b" * 500_000,
        "<lora:" * 500_000,
        '\nSteps: 1, x: "' + "\\" * 3_000_000,
        "\nSteps: 1, Lora hashes: " + "a:b," * 900_000,
        "\n" * 3_000_000,
        "\nNegative prompt:" * 200_000,
    ],
    ids=range(9),
)
def test_no_length_of_parameters_hangs(text):
    start = time.process_time()
    found = from_parameters(text)
    assert time.process_time() - start < 5
    assert all(len(value or "") <= 20_000 for value in (found.prompt, found.seed, found.model, found.lora))


def test_text_that_means_something_elsewhere_stays_text():
    evil = "<script>alert(1)</script>'); DROP TABLE pictures;-- {{x}} %s"
    assert read_infotext(png(parameters=evil + f"\nSteps: 1, Seed: 1, Model: {evil}")).prompt == evil


def test_what_no_database_stores_is_taken_out():
    found = from_parameters("a\0cat\ud800\nSteps: 1, Seed: 1\x00, Model: x\udfff\0")
    assert (found.prompt, found.seed, found.model) == ("acat?", "1", "x?")
    assert from_graph(json.dumps(graph(**{"6": node("CLIPTextEncode", text="a\0 cat\ud800")}))).prompt == "a cat?"


def test_what_is_longer_than_its_column_is_cut():
    found = from_parameters(f"cat\nSteps: 1, Seed: {'1' * 99}, Sampler: {'s' * 999}, Model: {'m' * 999}")
    assert [len(one) for one in (found.seed, found.sampler, found.model)] == [40, 200, 500]


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def with_chunk(name, data):
    plain = png()
    return plain[:33] + chunk(name, data) + plain[33:]


BOMB = zlib.compress(b"a" * 100_000_000, 1)
HOSTILE = {
    "zTXt bomb": with_chunk(b"zTXt", b"parameters\0\0" + BOMB),
    "iTXt bomb": with_chunk(b"iTXt", b"prompt\0\1\0\0\0" + BOMB),
    "damaged zTXt": with_chunk(b"zTXt", b"parameters\0\0damaged"),
    "NULs": with_chunk(b"tEXt", b"parameters\0a\0b\0c"),
    "no text": with_chunk(b"tEXt", b""),
    "no UTF-8": with_chunk(b"iTXt", b"parameters\0\0\0\0\0\xff\xfe\xff"),
    "huge": with_chunk(b"tEXt", b"prompt\0" + b"[" * 30_000_000),
    "cut short": png(parameters=A1111)[:60],
    "no picture": b"hello",
    "nothing": b"",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_no_chunk_crashes_or_hangs(what):
    start = time.process_time()
    found = read_infotext(HOSTILE[what])
    assert time.process_time() - start < 5
    assert "\0" not in (found.prompt or "")


def test_a_file_is_read_by_its_path(tmp_path):
    (tmp_path / "a.png").write_bytes(png(parameters=A1111))
    assert read_infotext(tmp_path / "a.png").seed == "4294967295"
    assert read_infotext(tmp_path / "missing.png") == GenerationInfo()


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=200))
def test_any_text_gives_text_that_can_be_stored(text):
    for found in (from_parameters(text), from_parameters(f"{text}\nSteps: {text}"), from_graph(text)):
        for value in (found.prompt, found.seed, found.sampler, found.model, found.lora):
            assert value is None or (value and "\0" not in value and value.encode())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["0", "1", "positive", "seed", "steps"]), inner)
    ),
    max_leaves=20,
)


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from("0123"),
        st.fixed_dictionaries(
            {
                "inputs": st.dictionaries(
                    st.sampled_from(
                        [
                            "positive",
                            "seed",
                            "steps",
                            "guider",
                            "noise",
                            "sampler",
                            "model",
                            "text",
                            "lora_name",
                            "lora_1",
                        ]
                    ),
                    st.tuples(st.sampled_from("0123"), st.just(0)) | JSON,
                )
            }
        ),
    )
)
def test_any_graph_is_survived(nodes):
    assert isinstance(from_graph(json.dumps(nodes)), GenerationInfo)
