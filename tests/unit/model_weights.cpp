// Weights from disk, and where they lie in memory.

#include <array>
#include <boost/test/unit_test.hpp>
#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>

#include "failure_of.hpp"
#include "idistill/base/error.hpp"
#include "idistill/model/safetensors.hpp"
#include "safetensors_files.hpp"
#include "tiny_decoder.hpp"
#include "token_files.hpp"

using namespace idistill;
using namespace idistill::test;
using nlohmann::json;

namespace {

model::ModelConfig smallest() {
    model::ModelConfig c;
    c.family = "llama";
    c.vocabulary = 5;
    c.hidden = 4;
    c.intermediate = 3;
    c.blocks = 1;
    c.heads = c.kv_heads = 2;
    c.head_dim = 2;
    return c;
}

/// Random float32 tensors for every slot.
Tensors tensors_of(const model::WeightLayout& layout) {
    Tensors tensors;
    for (const auto& slot : layout.slots) {
        const auto values = normal(slot.shape, slot.offset + 7).to(torch::kFloat32);
        tensors[slot.name] = {
            "F32",
            slot.shape,
            {static_cast<const char*>(values.const_data_ptr()), static_cast<std::size_t>(values.numel()) * 4}};
    }
    return tensors;
}

/// A model directory with `smallest` in it.
struct Directory {
    TemporaryFolder folder;
    model::WeightLayout layout = model::weight_layout(smallest());
    Tensors tensors = tensors_of(layout);
    std::string single = folder / "model.safetensors";
    std::string index = folder / "model.safetensors.index.json";

    struct Weights {
        std::vector<std::byte> memory;
        std::string hash;
        [[nodiscard]] std::string bytes(const model::WeightSlot& slot, std::size_t count) const {
            return {reinterpret_cast<const char*>(memory.data() + slot.offset), count};
        }
    };
    [[nodiscard]] Weights read() const {
        Weights weights{std::vector<std::byte>(layout.bytes), {}};
        weights.hash = model::read_weights(folder / "", layout, weights.memory);
        return weights;
    }
    void write_single() const { write(single, file_of(tensors)); }
    /// First tensor in one shard, the others in another.
    void write_shards() const {
        Tensors first{*tensors.begin()}, rest(std::next(tensors.begin()), tensors.end());
        write(folder / "one.safetensors", file_of(first));
        write(folder / "two.safetensors", file_of(rest));
        json map;
        for (const auto& [name, tensor] : tensors)
            map[name] = first.contains(name) ? "one.safetensors" : "two.safetensors";
        write(index, json{{"weight_map", map}}.dump());
    }
    /// The failure that reading ends with.
    [[nodiscard]] Failure failure() const {
        try {
            static_cast<void>(read());
        } catch (const Error& error) {
            BOOST_TEST((error.code() == ExitCode::bad_input));
            BOOST_TEST(!error.failure().remedy.empty());
            return error.failure();
        }
        BOOST_ERROR("no error");
        return {};
    }
};

/// Of a directory as a user gives it.
Failure directory_failure(const std::string& directory) {
    return failure_of(ExitCode::bad_input, [&] { model::check_model(directory); });
}

const std::string some_tensor = "model.layers.0.mlp.up_proj.weight";

}  // namespace

BOOST_AUTO_TEST_SUITE(model_weights)

BOOST_AUTO_TEST_CASE(every_tensor_is_placed_and_every_stack_is_aligned) {
    for (const auto& config : {tiny_llama(), tiny_qwen3(), smallest()}) {
        const auto layout = model::weight_layout(config);
        std::set<std::string> names;
        std::size_t end = 0;
        for (const auto& slot : layout.slots) {
            BOOST_TEST(names.insert(slot.name).second);
            BOOST_TEST(slot.offset >= end);
            std::size_t bytes = sizeof(float);
            for (const auto extent : slot.shape) bytes *= static_cast<std::size_t>(extent);
            const bool inside_stack = slot.name.find("k_proj") != std::string::npos ||
                                      slot.name.find("v_proj") != std::string::npos ||
                                      slot.name.find("up_proj") != std::string::npos;
            if (inside_stack)
                BOOST_TEST(slot.offset == end);
            else
                BOOST_TEST(slot.offset % 64 == 0U);
            end = slot.offset + bytes;
        }
        BOOST_TEST(layout.bytes >= end);
        BOOST_TEST(layout.bytes % 64 == 0U);
        BOOST_TEST(names.contains("lm_head.weight") == !config.tied_embedding);
        BOOST_TEST(names.contains("model.layers.0.self_attn.q_norm.weight") == config.query_key_norm);
        BOOST_TEST(names.contains("model.layers.0.self_attn.o_proj.bias") == config.attention_output_bias);

        const TinyModel tiny(config);
        const auto address = [](const Tensor& x) { return reinterpret_cast<std::uintptr_t>(x.const_data_ptr()) % 64; };
        for (const auto& block : tiny.decoder().blocks())
            for (const auto& tensor : {block.input_norm, block.qkv.weight, block.output.weight, block.attention_norm,
                                       block.gate_up.weight, block.down.weight})
                BOOST_TEST(address(tensor) == 0U);
        BOOST_TEST(tiny.decoder().blocks().front().qkv.weight.size(0) ==
                   (config.heads + 2 * config.kv_heads) * config.head_dim);
        BOOST_TEST(tiny.decoder().head().is_same(tiny.decoder().embedding()) == config.tied_embedding);
    }
}

BOOST_AUTO_TEST_CASE(weights_do_not_depend_on_how_they_are_sharded) {
    const Directory single, shards;
    single.write_single();
    shards.write_shards();
    const auto a = single.read(), b = shards.read();
    for (const auto& slot : single.layout.slots) {
        const auto& bytes = single.tensors.at(slot.name).bytes;
        BOOST_TEST((a.bytes(slot, bytes.size()) == bytes));
        BOOST_TEST((b.bytes(slot, bytes.size()) == bytes));
    }
    BOOST_TEST(a.hash.size() == 64U);
    BOOST_TEST(a.hash == b.hash);
    Directory changed;
    changed.tensors.at(some_tensor).bytes[5] ^= 1;
    changed.write_single();
    BOOST_TEST(changed.read().hash != a.hash);
}

BOOST_AUTO_TEST_CASE(half_precision_is_widened_exactly) {
    using Case = std::pair<std::uint16_t, double>;
    constexpr double infinite = std::numeric_limits<double>::infinity();
    const std::vector<Case> f16{{0x3C00, 1.0},
                                {0xC000, -2.0},
                                {0x7BFF, 65504.0},
                                {0x0001, std::ldexp(1.0, -24)},
                                {0x03FF, 1023 * std::ldexp(1.0, -24)},
                                {0x8000, -0.0},
                                {0x7C00, infinite},
                                {0xFC00, -infinite},
                                {0x3555, 0.333251953125},
                                {0x0400, std::ldexp(1.0, -14)}};
    const std::vector<Case> bf16{{0x3F80, 1.0},
                                 {0xC000, -2.0},
                                 {0x7F7F, std::ldexp(255.0, 120)},
                                 {0x0001, std::ldexp(1.0, -133)},
                                 {0x007F, std::ldexp(127.0, -133)},
                                 {0x8000, -0.0},
                                 {0x7F80, infinite},
                                 {0xFF80, -infinite},
                                 {0x3EAB, 0.333984375},
                                 {0x0080, std::ldexp(1.0, -126)}};
    for (const auto& [dtype, cases] : {std::pair{"F16", f16}, std::pair{"BF16", bf16}}) {
        Directory directory;
        auto& tensor = directory.tensors.at(some_tensor);
        tensor.dtype = dtype;
        tensor.bytes.clear();
        for (std::size_t i = 0; i < 12; ++i) {
            const auto bits = cases[i % cases.size()].first;
            tensor.bytes.append({static_cast<char>(bits & 0xffU), static_cast<char>(bits >> 8U)});
        }
        directory.write_single();
        const auto weights = directory.read();
        for (const auto& slot : directory.layout.slots) {
            if (slot.name != some_tensor) continue;
            std::array<float, 12> values{};
            std::memcpy(values.data(), weights.memory.data() + slot.offset, sizeof values);
            for (std::size_t i = 0; i < values.size(); ++i) {
                BOOST_TEST(static_cast<double>(values[i]) == cases[i % cases.size()].second);
                BOOST_TEST(std::signbit(values[i]) == std::signbit(cases[i % cases.size()].second));
            }
        }
    }
}

BOOST_AUTO_TEST_CASE(a_tensor_that_is_not_what_it_should_be_is_named) {
    const auto refused = [](const std::function<void(Stored&)>& damage, const std::string& expected,
                            const std::string& found) {
        Directory directory;
        damage(directory.tensors.at(some_tensor));
        directory.write_single();
        const auto failure = directory.failure();
        BOOST_TEST(failure.where == directory.single);
        BOOST_TEST(failure.field == some_tensor);
        BOOST_TEST(failure.expected.find(expected) != std::string::npos, failure.expected);
        BOOST_TEST(failure.found.find(found) != std::string::npos, failure.found);
    };
    refused([](Stored& t) { t.shape = {4, 3}; }, "[3, 4]", "[4, 3]");
    refused([](Stored& t) { t.shape = {12}; }, "[3, 4]", "[12]");
    refused([](Stored& t) { t.dtype = "I8"; }, "BF16", "I8");
    refused([](Stored& t) { t.dtype = "F16"; }, "24", "48");
    refused([](Stored& t) { t.bytes.resize(40); }, "48", "40");

    Directory missing;
    missing.tensors.erase(some_tensor);
    missing.write_single();
    BOOST_TEST(missing.failure().where == missing.single);
    BOOST_TEST(missing.failure().field == some_tensor);
    Directory untied;
    untied.tensors.erase("lm_head.weight");
    untied.write_single();
    BOOST_TEST(untied.failure().field == "lm_head.weight");
    BOOST_TEST(untied.failure().remedy.find("tie_word_embeddings") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(a_damaged_file_is_named) {
    Directory directory;
    const auto whole = file_of(directory.tensors);
    const auto refused = [&](const std::string& bytes, const std::string& field) {
        write(directory.single, bytes);
        const auto failure = directory.failure();
        BOOST_TEST(failure.where == directory.single);
        BOOST_TEST(failure.field == field);
    };
    const auto last = std::prev(directory.tensors.end())->first;
    refused(whole.substr(0, whole.size() - 1), last);
    refused(whole.substr(0, 100), "header");
    refused(whole.substr(0, 7), "header");
    refused("", "");
    refused(std::string(8, '\xff') + whole.substr(8), "header");
    refused(file_of("{\"a\": ", ""), "header");
    refused(file_of("[1, 2]", ""), "header");
    const auto altered = [&](const std::function<void(json&)>& alter) {
        auto header = header_of(directory.tensors);
        alter(header.at(some_tensor));
        return file_of(header.dump(), data_of(directory.tensors));
    };
    refused(altered([](json& t) { t.erase("dtype"); }), some_tensor);
    refused(altered([](json& t) { t.erase("shape"); }), some_tensor);
    refused(altered([](json& t) { t["data_offsets"] = json::array({8}); }), some_tensor);
    refused(altered([](json& t) { t["data_offsets"] = json::array({8, 4}); }), some_tensor);
    refused(altered([](json& t) { t["data_offsets"] = json::array({-8, -4}); }), some_tensor);
    refused(altered([](json& t) { t["data_offsets"] = "all"; }), some_tensor);
    refused(altered([](json& t) { t = 3; }), some_tensor);
}

BOOST_AUTO_TEST_CASE(an_incomplete_model_directory_is_named) {
    const Directory empty;
    BOOST_TEST(empty.failure().where == empty.folder / "");
    BOOST_TEST(empty.failure().found == "neither");

    const Directory no_shard;
    no_shard.write_shards();
    std::filesystem::remove(no_shard.folder / "two.safetensors");
    BOOST_TEST(no_shard.failure().where == no_shard.folder / "two.safetensors");

    const Directory promise;
    promise.write_shards();
    const auto& first = promise.tensors.begin()->first;
    write(promise.folder / "one.safetensors", file_of(Tensors{}));
    BOOST_TEST(promise.failure().where == promise.folder / "one.safetensors");
    BOOST_TEST(promise.failure().field == first);

    for (const auto* text : {"{", "[]", "{}", "{\"weight_map\": 3}"}) {
        const Directory bad;
        write(bad.index, text);
        BOOST_TEST(bad.failure().where == bad.index);
        BOOST_TEST(bad.failure().field == "weight_map");
    }
    const Directory number;
    write(number.index, "{\"weight_map\": {\"a.weight\": 3}}");
    BOOST_TEST(number.failure().field == "a.weight");
}

BOOST_AUTO_TEST_CASE(the_remedy_is_that_of_the_cause) {
    const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 269060552\n";
    for (const bool sharded : {false, true}) {
        const Directory directory;
        if (sharded) directory.write_shards();
        const auto path = sharded ? directory.folder / "two.safetensors" : directory.single;
        write(path, pointer);
        BOOST_TEST(directory.failure().where == path);
        BOOST_TEST(directory.failure().found == "a Git LFS pointer");
        BOOST_TEST(contains(directory.failure().remedy, "git -C " + directory.folder.path() + " lfs pull"));
    }
    const Directory index;
    write(index.index, pointer);
    BOOST_TEST(contains(index.failure().remedy, "lfs pull"));
}

BOOST_AUTO_TEST_CASE(what_is_no_model_directory_is_told_what_it_is) {
    const TemporaryFolder folder;
    const auto is = [](const std::string& directory, const std::string& found, const std::string& remedy) {
        const auto failure = directory_failure(directory);
        BOOST_TEST(failure.where == "--model");
        BOOST_TEST(contains(failure.found, found), failure.found);
        BOOST_TEST(contains(failure.remedy, remedy), failure.remedy);
    };
    is("HuggingFaceTB/SmolLM2-135M", "no folder here",
       "`hf download HuggingFaceTB/SmolLM2-135M --local-dir SmolLM2-135M`, and give --model SmolLM2-135M.");
    is("/nowhere/model", "nothing at /nowhere/model", "Check the path");
    is(folder.path(), "no config.json", "the directory that holds config.json");
    is(folder.file("model.safetensors", "x"), "the file ", "Give the directory");
    folder.file("adapter_config.json", "{\"base_model_name_or_path\": \"org/base\"}");
    is(folder.path(), "an adapter of org/base", "from_pretrained('" + folder.path() + "').merge_and_unload()");
    BOOST_TEST(!contains(directory_failure(folder.path()).remedy, "merged already"));
    is(folder.path(), "an adapter of org/base", "T.from_pretrained('org/base')");
    folder.file("tokenizer_config.json", "{}");
    is(folder.path(), "an adapter of org/base", "T.from_pretrained('" + folder.path() + "')");
    folder.file("config.json", "{\"model_type\": \"llama\"}");
    is(folder.path(), "an adapter of org/base", "merged already");
    folder.file("adapter_config.json", "[");
    is(folder.path(), "an adapter of BASE", "Merge it");
    const TemporaryFolder cache;
    std::filesystem::create_directories(cache / "snapshots/0a1b");
    write(cache / "snapshots/0a1b/config.json", "{}");
    is(cache.path(), "the download cache", "Give --model a model in it: " + cache.path());
}

// What a device gets, tensor by tensor, in its own type, from one file or several.
BOOST_AUTO_TEST_CASE(a_decoder_read_where_it_computes_has_the_same_weights_and_fingerprint) {
    for (const bool sharded : {false, true}) {
        const Directory directory;
        sharded ? directory.write_shards() : directory.write_single();
        auto weights = directory.read();
        const model::Decoder shared(smallest(), directory.layout, weights.memory);
        for (const auto type : {torch::kFloat32, torch::kBFloat16}) {
            std::string hash;
            const auto own = model::read_decoder(directory.folder / "", smallest(), {torch::kCPU, type}, &hash);
            BOOST_TEST(hash == weights.hash);
            BOOST_TEST(own.pads() == (type == torch::kBFloat16));
            const auto same = [type](const Tensor& found, const Tensor& expected) {
                return found.scalar_type() == type && at::equal(found, expected.to(type));
            };
            BOOST_TEST(same(own.embedding(), shared.embedding()));
            BOOST_TEST(same(own.head(), shared.head()));
            BOOST_TEST(same(own.final_norm(), shared.final_norm()));
            const auto &found = own.blocks().front(), &expected = shared.blocks().front();
            BOOST_TEST(same(found.input_norm, expected.input_norm));
            BOOST_TEST(same(found.qkv.weight, expected.qkv.weight));
            BOOST_TEST(same(found.output.weight, expected.output.weight));
            BOOST_TEST(same(found.gate_up.weight, expected.gate_up.weight));
            BOOST_TEST(same(found.down.weight, expected.down.weight));
        }
        model::read_decoder(directory.folder / "", smallest(), {}, nullptr);  // a rank that does not hash
    }
}

BOOST_AUTO_TEST_SUITE_END()
