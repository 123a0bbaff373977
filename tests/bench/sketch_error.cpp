// How far sketched influences are from the exact ones: what jobs/bench.sh runs.
//   sketch_error MODEL POOL.h5 SAMPLES TARGETS CONTRAST SKETCHES TARGETS.h5 ... [--optimizer FILE]
// SKETCHES is a list as tensor:32768,kronecker:32768. The influence is the cosine of a sample's gradient (with an
// optimizer times its factors) with a target's, then the same after the mean gradient of CONTRAST pool samples is
// projected out of the targets (--contrast). Truth: the same gradients whole, products summed in fp64.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <malloc.h>

#include <cmath>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "idistill/base/seeded_permutation.hpp"
#include "idistill/comm/mpi.hpp"
#include "idistill/data/token_file.hpp"
#include "idistill/influence/gradient/passes.hpp"
#include "idistill/influence/gradient/sketch.hpp"
#include "idistill/influence/gradient/sketch_shape.hpp"
#include "idistill/options/run_settings.hpp"

namespace {

using namespace idistill;
using at::Tensor;
using influence::GradientSketch;
using influence::SketchKind;

const options::RunSettings run;
const auto fp64 = at::TensorOptions().dtype(at::kDouble);

struct Kind {
    std::string name;
    std::unique_ptr<GradientSketch> sketch;
};

/// All kinds one after the other, from one pass.
class All final : public GradientSketch {
public:
    explicit All(std::vector<Kind> kinds) : kinds_(std::move(kinds)) {
        for (const auto& kind : kinds_) width_ += kind.sketch->width();
    }
    [[nodiscard]] const std::vector<Kind>& kinds() const { return kinds_; }
    [[nodiscard]] std::int64_t width() const override { return width_; }
    [[nodiscard]] std::optional<std::vector<std::int64_t>> dense_parts() const override { return std::nullopt; }
    void accumulate(const model::LayerTap& tap, Tensor& sketches) const override {
        std::int64_t first = 0;
        for (const auto& kind : kinds_) {
            auto own = sketches.narrow(1, first, kind.sketch->width());
            kind.sketch->accumulate(tap, own);
            first += kind.sketch->width();
        }
    }
    void accumulate_dense(std::size_t layer, const Tensor& gradients, Tensor sketches) const override {
        std::int64_t first = 0;
        for (const auto& kind : kinds_) {
            kind.sketch->accumulate_dense(layer, gradients, sketches.narrow(1, first, kind.sketch->width()));
            first += kind.sketch->width();
        }
    }

private:
    std::vector<Kind> kinds_;
    std::int64_t width_ = 0;
};

All make_kinds(const std::string& list, const std::vector<model::LinearLayer>& layers,
               const at::TensorOptions& options) {
    std::vector<Kind> kinds;
    kinds.push_back({"none", influence::make_sketch(SketchKind::none, layers, 0, run.seed, options)});
    std::istringstream stream(list);
    for (std::string name; std::getline(stream, name, ',');) {
        influence::GradientSettings settings;
        const auto colon = name.find(':');
        settings.sketch_dim = std::stoll(name.substr(colon + 1));
        const auto kind = name.substr(0, colon);
        settings.sketch = kind == "tensor"      ? SketchKind::tensor
                          : kind == "kronecker" ? SketchKind::kronecker
                          : kind == "hadamard"  ? SketchKind::hadamard
                                                : SketchKind::rademacher;
        const auto width = influence::sketch_shape(settings, layers).width;
        kinds.push_back({fmt::format("{} of {}", kind, width),
                         influence::make_sketch(settings.sketch, layers, width, run.seed, options)});
    }
    return All(std::move(kinds));
}

/// (n x m) of rows a (n x k) and b (m x k), summed in fp64 over pieces.
Tensor products(const Tensor& a, const Tensor& b) {
    constexpr std::int64_t piece = std::int64_t{1} << 20;
    auto sum = at::zeros({a.size(0), b.size(0)}, fp64);
    for (std::int64_t first = 0; first < a.size(1); first += piece) {
        const auto count = std::min(piece, a.size(1) - first);
        sum.addmm_(a.narrow(1, first, count).to(at::kDouble), b.narrow(1, first, count).to(at::kDouble).t());
    }
    return sum;
}

struct Influences {
    Tensor plain, contrast;  ///< (samples x targets)
};

/// From unit rows of targets and the mean m of the contrast's: t - (t.m / m.m) m.
Influences influences(const Tensor& with_targets, const Tensor& with_mean, const Tensor& targets_with_mean,
                      double mean_square) {
    return {with_targets, with_targets - at::mm(with_mean, targets_with_mean.t()) / mean_square};
}

double correlation(const Tensor& a, const Tensor& b) {
    const auto x = a - a.mean(), y = b - b.mean();
    return ((x * y).sum() / (x.square().sum() * y.square().sum()).sqrt()).item<double>();
}

double root_mean_square(const Tensor& x) { return x.square().mean().sqrt().item<double>(); }

data::Samples rows_of(const data::TokenFile& file, const std::vector<std::int64_t>& rows) {
    data::Samples all{{}, {}, {0}};
    for (const auto row : rows) {
        const auto one = file.read({row, 1});
        all.tokens.insert(all.tokens.end(), one.tokens.begin(), one.tokens.end());
        all.label_mask.insert(all.label_mask.end(), one.label_mask.begin(), one.label_mask.end());
        all.offsets.push_back(std::ssize(all.tokens));
    }
    return all;
}

/// `count` rows with labels, drawn at random.
std::vector<std::int64_t> drawn(const data::TokenFile& file, const char* purpose, std::int64_t count) {
    std::vector<std::uint8_t> usable;
    for (std::int64_t row = 0; row < file.size(); ++row)
        usable.push_back(influence::used_tokens(file.read({row, 1}), 0) > 0 ? 1 : 0);
    return first_of_permutation(usable, run.seed, purpose, count);
}

}  // namespace

int main(int argc, char** argv) try {
    mallopt(M_MMAP_THRESHOLD, 1 << 30);  // as main.cpp
    mallopt(M_TRIM_THRESHOLD, -1);
    const comm::MpiProcess mpi(argc, argv);
    if (argc < 8) return 2;
    std::vector<std::string> target_paths;
    std::string optimizer;
    for (int i = 7; i < argc; ++i) {
        if (std::string(argv[i]) == "--optimizer" && i + 1 < argc)
            optimizer = argv[++i];
        else
            target_paths.emplace_back(argv[i]);
    }
    const auto config = model::check_model(argv[1]).config;
    const auto layout = model::weight_layout(config);
    const auto weights = at::empty({static_cast<std::int64_t>(layout.bytes)}, at::kByte);
    const std::span bytes(static_cast<std::byte*>(weights.mutable_data_ptr()), layout.bytes);
    model::read_weights(argv[1], layout, bytes);
    const model::Decoder decoder(config, layout, bytes);
    const model::ChosenLayers chosen(config, model::chosen_layers(config, influence::GradientSettings().parameters));
    const auto all = make_kinds(argv[6], chosen.layers(), decoder.options());

    influence::Preconditioner factors;
    Tensor scales;
    if (!optimizer.empty()) {
        const influence::OptimizerFile file(optimizer, chosen.layers());
        scales = at::empty({static_cast<std::int64_t>(file.bytes())}, at::kByte);
        const std::span memory(static_cast<std::byte*>(scales.mutable_data_ptr()), file.bytes());
        file.fill(memory);
        factors = file.preconditioner(memory);
    }
    /// Rows of unit length, sketches and all.
    const auto unit = [&](const data::Samples& samples, const influence::Preconditioner& by) {
        auto rows = influence::gradient_sketches(decoder, chosen, all, samples, run.batch_tokens, by);
        return rows.features.div_(rows.norm.unsqueeze(1));
    };

    const data::TokenFile pool(argv[2]);
    const auto samples = drawn(pool, "sketch error", std::stoll(argv[3]));
    const auto targets_each = std::max<std::int64_t>(1, std::stoll(argv[4]) / std::ssize(target_paths));
    std::vector<Tensor> target_rows;
    for (const auto& path : target_paths) {
        const data::TokenFile file(path);
        target_rows.push_back(unit(rows_of(file, drawn(file, "sketch error", targets_each)), {}));
    }
    const auto targets = at::cat(target_rows);
    target_rows.clear();
    auto mean = at::zeros({1, all.width()}, decoder.options());
    constexpr std::size_t at_once = 8;
    const auto contrast = drawn(pool, "contrast", std::stoll(argv[5]));
    for (std::size_t first = 0; first < contrast.size(); first += at_once)
        mean.add_(unit(rows_of(pool, {contrast.begin() + static_cast<std::ptrdiff_t>(first),
                                      contrast.begin() +
                                          static_cast<std::ptrdiff_t>(std::min(first + at_once, contrast.size()))}),
                       factors)
                      .sum(0, true),
                  1.0 / static_cast<double>(contrast.size()));

    const auto columns = targets.size(0);
    std::vector<Tensor> of_targets(all.kinds().size()), of_mean(all.kinds().size()), squares(all.kinds().size());
    for (std::size_t first = 0; first < samples.size(); first += at_once) {
        const auto rows = unit(
            rows_of(pool, {samples.begin() + static_cast<std::ptrdiff_t>(first),
                           samples.begin() + static_cast<std::ptrdiff_t>(std::min(first + at_once, samples.size()))}),
            factors);
        std::int64_t begin = 0;
        for (std::size_t k = 0; k < all.kinds().size(); ++k) {
            const auto width = all.kinds()[k].sketch->width();
            const auto own = [&](const Tensor& x) { return x.narrow(1, begin, width); };
            const auto add = [](Tensor& sum, const Tensor& more) { sum = sum.defined() ? at::cat({sum, more}) : more; };
            add(of_targets[k], products(own(rows), own(targets)));
            add(of_mean[k], products(own(rows), own(mean)));
            if (const auto parts = all.kinds()[k].sketch->dense_parts(); parts && !parts->empty())
                add(squares[k], influence::part_norms(own(rows), *parts));
            begin += width;
        }
        fmt::print(stderr, "{} of {} samples\n", std::min(first + at_once, samples.size()), samples.size());
    }
    std::vector<Influences> found;
    std::vector<std::pair<double, double>> expected;
    std::int64_t begin = 0;
    for (std::size_t k = 0; k < all.kinds().size(); ++k) {
        const auto width = all.kinds()[k].sketch->width();
        const auto own_mean = mean.narrow(1, begin, width);
        found.push_back(influences(of_targets[k], of_mean[k], products(targets.narrow(1, begin, width), own_mean),
                                   products(own_mean, own_mean).item<double>()));
        const auto own_targets = targets.narrow(1, begin, width);
        auto& of_kind = expected.emplace_back(std::nan(""), std::nan(""));
        if (squares[k].defined()) {
            const auto parts = *all.kinds()[k].sketch->dense_parts();
            const auto along = products(own_targets, own_mean) / products(own_mean, own_mean);
            const auto expected_of = [&](const Tensor& rows) {
                return root_mean_square(influence::expected_errors(rows, squares[k].mean(0), parts));
            };
            of_kind = {expected_of(own_targets), expected_of(own_targets - along.to(own_mean.dtype()) * own_mean)};
        }
        begin += width;
    }
    fmt::print("{} samples x {} targets; standard deviation of the influences {:.4f}, with contrast {:.4f}\n",
               samples.size(), columns, found[0].plain.std().item<double>(), found[0].contrast.std().item<double>());
    fmt::print("{:<22} {:>9} {:>9} {:>12} | contrast: {:>9} {:>9} {:>12}\n", "sketch", "error", "expected",
               "correlation", "error", "expected", "correlation");
    for (std::size_t k = 1; k < found.size(); ++k)
        fmt::print("{:<22} {:>9.5f} {:>9.5f} {:>12.5f} | {:>19.5f} {:>9.5f} {:>12.5f}\n", all.kinds()[k].name,
                   root_mean_square(found[k].plain - found[0].plain), expected[k].first,
                   correlation(found[k].plain, found[0].plain), root_mean_square(found[k].contrast - found[0].contrast),
                   expected[k].second, correlation(found[k].contrast, found[0].contrast));
    return 0;
} catch (const std::exception& error) {
    fmt::print(stderr, "sketch_error: {}\n", error.what());
    idistill::comm::MpiProcess::abort(1);
}
