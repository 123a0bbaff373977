// How often a pass waits for a device, and how many operators it asks for: as often for many samples, layers and heads
// as for few.

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <csignal>
#include <functional>
#include <memory>
#include <numeric>
#include <sstream>

#include "idistill/embedding/encoder.hpp"
#include "idistill/influence/gradient/hessian.hpp"
#include "idistill/influence/gradient/passes.hpp"
#include "idistill/model/continuation.hpp"
#include "idistill/model/padding.hpp"
#include "sketch_kinds.hpp"
#include "test_device.hpp"
#include "tiny_decoder.hpp"

using namespace idistill;
using namespace idistill::test;

namespace {

struct Size {
    std::int64_t samples, blocks, heads;
};
std::ostream& operator<<(std::ostream& out, const Size& size) {
    return out << size.samples << " samples, " << size.blocks << " blocks, " << size.heads << " heads";
}
constexpr Size least{4, 2, 4};
constexpr std::int64_t length = 9, most_copies = 12;  // tokens, offsets, labels and places of a micro-batch

model::ModelConfig config_of(const Size& size) {
    auto config = tiny_llama();
    config.blocks = size.blocks;
    config.heads = size.heads;
    config.kv_heads = size.heads / 2;
    config.head_dim = 16 / size.heads;  // layers stay as wide
    return config;
}

std::string text_of(const DeviceWork& work) {
    std::ostringstream text;
    for (const auto& [name, count] : work.waits) text << count << " x " << name << ", ";
    text << work.operators << " operators, " << work.to_device << " copies to the device, " << work.to_host << " back";
    return text.str();
}

/// A decoder on the test device, and all its layers.
struct Subject {
    explicit Subject(const Size& size)
        : config(config_of(size)),
          decoder(TinyModel(config).decoder().to(test_device(), torch::kFloat32)),
          chosen(config, model::chosen_layers(config, "")) {}

    model::ModelConfig config;
    model::Decoder decoder;
    model::ChosenLayers chosen;

    [[nodiscard]] std::vector<Tensor> directions(const std::vector<std::int64_t>& shape) const {
        std::vector<Tensor> all;
        for (const auto& layer : chosen.layers()) {
            auto own = shape;
            own.insert(own.end(), {layer.outputs, layer.inputs});
            all.push_back(normal(own, 7 + all.size()).to(decoder.options()));
        }
        return all;
    }
};

/// Samples in micro-batches of so many tokens.
using Pass = std::function<void(const data::Samples&, std::int64_t batch_tokens)>;
using MakePass = std::function<Pass(const Subject&)>;

/// What one micro-batch more costs.
DeviceWork of_a_micro_batch(const Size& size, const MakePass& make) {
    const Subject subject(size);
    const auto pass = make(subject);
    const auto work_of = [&](std::int64_t batches) {
        const auto lengths = std::vector<std::int64_t>(static_cast<std::size_t>(batches * size.samples), length);
        auto samples = random_samples(subject.config.vocabulary, lengths, 31);
        std::ranges::fill(samples.label_mask, 1);  // as many rows in every sample
        const auto before = device_work();
        pass(samples, size.samples * length);
        return device_work() - before;
    };
    work_of(1);  // what is made once
    const auto one = work_of(1), three = work_of(3);
    auto more = three - one;
    for (auto* count : {&more.operators, &more.to_device, &more.to_host}) {
        BOOST_TEST(*count % 2 == 0);
        *count /= 2;
    }
    for (auto& [name, count] : more.waits) count /= 2;
    return more;
}

/// No waits, and as many copies for more samples, layers and heads; as many operators for more samples and heads.
/// host_copies: of every layer, for what is made on the host, with a wait each.
void check(const std::string& what, const MakePass& make, std::int64_t host_copies = 0) {
    const auto expected = of_a_micro_batch(least, make);
    BOOST_TEST_MESSAGE(what << ": " << text_of(expected));
    BOOST_TEST(expected.operators > 0);
    for (const auto& size : {least, Size{16, 2, 4}, Size{4, 2, 8}, Size{4, 4, 4}}) {
        const auto found = of_a_micro_batch(size, make);
        const auto layers = std::ssize(model::chosen_layers(config_of(size), ""));
        const auto said = [&] {
            std::ostringstream text;
            text << what << ", " << size << ": " << text_of(found) << "; " << least << ": " << text_of(expected);
            return text.str();
        };
        BOOST_TEST(found.all_waits() == host_copies * layers, said());
        BOOST_TEST(found.to_device <= most_copies + host_copies * layers, said());
        BOOST_TEST(found.to_host == 0, said());
        if (size.blocks == least.blocks) {
            BOOST_TEST(found.to_device == expected.to_device, said());
            BOOST_TEST(found.operators == expected.operators, said());
        } else if (host_copies == 0) {
            BOOST_TEST(found.to_device == expected.to_device, said());
        }
    }
}

/// Random signs are drawn on the host whenever they are needed.
std::int64_t host_copies_of(influence::SketchKind kind) { return kind == influence::SketchKind::rademacher ? 1 : 0; }

using MakePreconditioner = std::function<influence::Preconditioner(const Subject&)>;

/// Sketches of gradients, each changed as `preconditioner` says.
MakePass sketch_pass(influence::SketchKind kind, const MakePreconditioner& preconditioner) {
    return [kind, preconditioner](const Subject& s) -> Pass {
        std::shared_ptr<const influence::GradientSketch> sketch =
            influence::make_sketch(kind, s.chosen.layers(), std::ssize(s.chosen.layers()) * 16, 5, s.decoder.options());
        return [&s, sketch, by = preconditioner(s)](const data::Samples& samples, std::int64_t batch_tokens) {
            influence::gradient_sketches(s.decoder, s.chosen, *sketch, samples, batch_tokens, by);
        };
    };
}

}  // namespace

BOOST_AUTO_TEST_SUITE(waits_of_passes)

BOOST_AUTO_TEST_CASE(gradient_sketches) {
    const auto plain = [](const Subject&) { return influence::Preconditioner{}; };
    for (const auto kind : sketch_kinds)
        check((std::ostringstream() << kind).str(), sketch_pass(kind, plain), host_copies_of(kind));
}

BOOST_AUTO_TEST_CASE(sketches_of_an_optimizers_step) {
    const auto step = [](const Subject& s) {
        influence::Preconditioner by{.step = influence::AdamStep{s.directions({}), {}, 0.1, 0.05, 1e-3}};
        for (const auto& one : s.directions({})) by.step->second.push_back(one.square());
        return by;
    };
    for (const auto kind : sketch_kinds)
        check((std::ostringstream() << kind).str(), sketch_pass(kind, step), host_copies_of(kind));
}

BOOST_AUTO_TEST_CASE(products_with_directions) {
    for (const std::int64_t count : {1, 5})
        check("products", [count](const Subject& s) -> Pass {
            return [&s, directions = s.directions({count})](const data::Samples& samples, std::int64_t batch_tokens) {
                influence::gradient_products(s.decoder, s.chosen, directions, samples, batch_tokens, {});
            };
        });
}

BOOST_AUTO_TEST_CASE(hessian_products) {
    check("Hessian products", [](const Subject& s) -> Pass {
        auto sums = s.directions({});
        return [&s, v = s.directions({}), sums](const data::Samples& samples, std::int64_t batch_tokens) mutable {
            influence::add_hessian_products(s.decoder, s.chosen, samples, normal({samples.size()}, 3), v, batch_tokens,
                                            sums);
        };
    });
}

BOOST_AUTO_TEST_CASE(weighted_gradients) {
    check("weighted gradients", [](const Subject& s) -> Pass {
        return [&s, sums = s.directions({})](const data::Samples& samples, std::int64_t batch_tokens) mutable {
            influence::add_weighted_gradients(s.decoder, s.chosen, samples, normal({samples.size()}, 3), batch_tokens,
                                              sums);
        };
    });
}

BOOST_AUTO_TEST_CASE(label_probabilities_behind_a_prefix) {
    check("label probabilities", [](const Subject& s) -> Pass {
        const auto prefix = model::read_prefix(s.decoder, std::vector<std::int32_t>{3, 1, 4, 1, 5});
        return [&s, prefix](const data::Samples& samples, std::int64_t batch_tokens) {
            const auto members = batch_tokens / length;
            for (std::int64_t first = 0; first < samples.size(); first += members) {
                std::vector<std::int64_t> chosen(static_cast<std::size_t>(members));
                std::iota(chosen.begin(), chosen.end(), first);
                model::label_log_probabilities(s.decoder, &prefix, model::pack_with_labels(s.decoder, samples, chosen));
            }
        };
    });
}

BOOST_AUTO_TEST_CASE(embeddings) {
    using Encoder = std::shared_ptr<const embedding::Encoder>;
    const auto check_encoder = [](const std::string& what, const std::function<Encoder(const Subject&)>& make) {
        check(what, [&](const Subject& s) -> Pass {
            return [encoder = make(s)](const data::Samples& samples, std::int64_t batch_tokens) {
                (*encoder)(samples, batch_tokens);
            };
        });
    };
    for (const std::int64_t rank : {0, 3})
        check_encoder("jvp", [rank](const Subject& s) -> Encoder {
            return embedding::make_jvp_encoder(s.decoder, s.config.blocks, {2, rank}, 43, 10);
        });
    check_encoder("hidden", [](const Subject& s) -> Encoder {
        return embedding::make_hidden_encoder(s.decoder, s.config.blocks, 43, 10);
    });
    check_encoder("gradient-tail", [](const Subject& s) -> Encoder {
        return embedding::make_gradient_tail_encoder(s.decoder, s.chosen.layers(),
                                                     {8, std::ssize(s.chosen.layers()) * 10, 43});
    });
}

BOOST_AUTO_TEST_SUITE_END()

// The device itself: without what it is to find, no test on it finds anything.
BOOST_AUTO_TEST_SUITE(test_device_itself)

BOOST_AUTO_TEST_CASE(a_pointer_of_the_host_into_its_tensors_ends_the_program_with_the_reason) {
    const auto x = at::ones({3}, at::TensorOptions().device(test_device()));
    int ends[2];
    BOOST_REQUIRE(pipe(ends) == 0);
    const pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        explain_stray_pointers();
        _exit(x.const_data_ptr<float>()[1] == 1.0F ? 1 : 0);
    }
    close(ends[1]);
    std::string said(10000, '\0');
    const auto bytes = read(ends[0], said.data(), said.size());
    close(ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    BOOST_TEST((WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV));
    BOOST_TEST(said.substr(0, bytes > 0 ? static_cast<std::size_t>(bytes) : 0).find("test device") !=
               std::string::npos);
}

BOOST_AUTO_TEST_CASE(tensors_of_the_host_are_refused) {
    const auto x = at::ones({3}, at::TensorOptions().device(test_device()));
    BOOST_CHECK_THROW(x + at::ones({3}), c10::Error);
    BOOST_CHECK_THROW(x.index_select(0, at::zeros({1}, torch::kInt64)), c10::Error);
    BOOST_TEST((x + at::ones({})).sum().item<float>() == 6.0F);
}

BOOST_AUTO_TEST_CASE(views_and_results_are_the_cpus) {
    const auto host = normal({4, 6}, 1);
    const auto x = host.to(test_device());
    auto part = x.t().narrow(0, 1, 3);
    part.mul_(2.0);
    auto expected = host.clone();
    expected.narrow(1, 1, 3).mul_(2.0);
    BOOST_TEST(same_bits(x.cpu(), expected));
    BOOST_TEST(same_bits(at::fft_rfft(x).cpu(), at::fft_rfft(expected)));
    BOOST_TEST(same_bits(at::view_as_real(at::fft_rfft(x)).cpu(), at::view_as_real(at::fft_rfft(expected))));
    auto grown = at::empty({0}, x.options());
    at::mm_out(grown, x, x.t());
    BOOST_TEST(same_bits(grown.cpu(), at::mm(expected, expected.t())));
    const auto [values, order] = at::sort(x, 1);
    BOOST_TEST(same_bits(values.cpu(), std::get<0>(at::sort(expected, 1))));
    BOOST_TEST(order.device() == test_device());
    BOOST_TEST(same_bits(at::cat({x, x}).cpu(), at::cat({expected, expected})));
}

BOOST_AUTO_TEST_CASE(waits_are_counted) {
    const auto x = at::ones({3}, at::TensorOptions().device(test_device()));
    const auto found = [](const std::function<void()>& body) {
        const auto before = device_work();
        body();
        return device_work() - before;
    };
    BOOST_TEST(found([&] { x + 1; }).all_waits() == 0);
    BOOST_TEST(found([&] { x.cpu(); }).all_waits() == 1);
    BOOST_TEST(found([&] { x.cpu(); }).to_host == 1);
    BOOST_TEST(found([&] { x[0].item(); }).all_waits() == 1);
    BOOST_TEST(found([&] { at::nonzero(x); }).all_waits() == 1);
    BOOST_TEST(found([&] { at::equal(x, x); }).all_waits() == 1);
    BOOST_TEST(found([&] { x.index({x > 0}); }).all_waits() >= 1);
    BOOST_TEST(found([&] { at::ones({2}).to(test_device()); }).all_waits() == 1);
    const auto counts = at::ones({3}, x.options().dtype(torch::kInt64));
    BOOST_TEST(found([&] { at::repeat_interleave(counts); }).all_waits() == 1);
    BOOST_TEST(found([&] { at::repeat_interleave(counts, 3); }).all_waits() == 0);
    const auto pinned = found([&] { model::on_device({1, 2}, test_device()); });
    BOOST_TEST(pinned.to_device == 1);
    BOOST_TEST(pinned.all_waits() == 0);
}

BOOST_AUTO_TEST_SUITE_END()
