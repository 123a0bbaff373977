#include "learning.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>

#include "idistill/base/error.hpp"
#include "idistill/base/finite.hpp"

namespace idistill::propagation {
namespace {

using torch::Tensor;

constexpr double undefined = std::numeric_limits<double>::quiet_NaN();
constexpr std::int64_t patience = 3;           // epochs without a lower held-out error, until it stops
constexpr std::int64_t batches_at_once = 256;  // between two looks at the progress

// Datasets of the state, a row an epoch.
constexpr const char* parameters_column = "parameters";
constexpr const char* first_column = "first_moment";
constexpr const char* second_column = "second_moment";
constexpr const char* error_column = "error";  // learnt, held out

double real(std::int64_t value) { return static_cast<double>(value); }

Tensor places(const std::vector<std::int64_t>& rows) {
    return at::tensor(rows, at::TensorOptions().dtype(torch::kInt64));
}

/// What a set of numbers varies by; 0 where that is rounding.
struct Spread {
    double mean = 0.0, deviation = 0.0;
};

template <class Value>
Spread spread_of(const std::vector<Pair>& pairs, Value value) {
    double sum = 0.0, lowest = std::numeric_limits<double>::infinity(), highest = -lowest;
    for (const auto& pair : pairs) {
        const double v = value(pair);
        sum += v;
        lowest = std::min(lowest, v);
        highest = std::max(highest, v);
    }
    const auto count = static_cast<double>(pairs.size());
    const double mean = lowest == highest ? lowest : sum / count;
    double squares = 0.0;
    for (const auto& pair : pairs) squares += (value(pair) - mean) * (value(pair) - mean);
    return {mean, equal_but_for_rounding(lowest, highest) ? 0.0 : std::sqrt(squares / count)};
}

/// A problem as the layers see it.
struct Scaled {
    NetworkScaling scaling;
    Examples examples;
    double unit = 1.0;  ///< of squared errors of the layers, in the variance of the labels
};

/// Embeddings of the samples that are learnt from get a root mean square length of 1, which sentence embeddings have.
void scale_inputs(const Problem& problem, bool standardise, NetworkScaling& scaling) {
    const auto squares = [](const Tensor& e, const std::vector<std::int64_t>& of) {
        return e.index_select(0, places(of)).square().sum(torch::kFloat64).item<double>();
    };
    double sum = squares(problem.rows, problem.split.rows), count = real(std::ssize(problem.split.rows));
    if (problem.shape.pairs) {
        sum += squares(problem.columns, problem.split.columns);
        count += real(std::ssize(problem.split.columns));
    }
    scaling.length = standardise && sum > 0.0 ? std::sqrt(sum / count) : 1.0;
}

Scaled scaled(const Problem& problem, const NetworkSettings& settings, const std::vector<Pair>& pairs) {
    Scaled made;
    const bool standardise = settings.standardise;
    auto& [scaling, examples, unit] = made;
    scale_inputs(problem, standardise, scaling);
    const auto input = [&](const Tensor& e) { return (e / scaling.length).contiguous(); };
    examples.rows = input(problem.rows);
    if (problem.shape.pairs) examples.columns = input(problem.columns);
    examples.labels = problem.labels.clone(at::MemoryFormat::Contiguous);
    CosineLine line;
    if (problem.shape.residual) {
        const auto cosine = cosines(problem.rows, problem.columns);
        line = nearest_line(cosine, problem.labels, pairs);
        examples.labels.sub_(cosine, line.slope).sub_(line.offset);
        scaling.slope = line.slope;
    }
    double variance = 0.0, gains = 0.0;
    const auto spread = [&](const Tensor& labels, std::int64_t output) {
        const auto* values = labels.const_data_ptr<float>() + output;
        const auto width = labels.size(1);
        return spread_of(pairs, [=](const Pair& p) { return static_cast<double>(values[p.row * width + p.column]); });
    };
    const auto raw = problem.labels.contiguous();
    for (std::int64_t output = 0; output < problem.shape.outputs; ++output) {
        const auto [mean, deviation] = standardise ? spread(examples.labels, output) : Spread{0.0, 1.0};
        const double divisor = deviation > 0.0 ? deviation : 1.0;
        auto own = problem.shape.pairs ? examples.labels : examples.labels.narrow(1, output, 1);
        own.sub_(mean).div_(divisor);
        scaling.gain.push_back(deviation);
        scaling.offset.push_back(mean + line.offset);
        const double own_deviation = spread(raw, output).deviation;
        variance += own_deviation * own_deviation;
        gains += divisor * divisor;
    }
    unit = variance > 0.0 ? gains / variance : 1.0;
    return made;
}

/// The held-out pairs and what is wanted of them, by the labels of the layers.
class HeldOut {
public:
    HeldOut(const Problem& problem, const Scaled& made)
        : shape_(problem.shape),
          pairs_(pairs_of(problem.split.held_rows, problem.split.held_columns, problem.labelled)),
          examples_(made.examples),
          plain_{1.0, std::vector<double>(static_cast<std::size_t>(shape_.outputs), 1.0),
                 std::vector<double>(static_cast<std::size_t>(shape_.outputs), 0.0)},
          split_(problem.split),
          unit_(made.unit) {
        shape_.residual = false;
    }

    [[nodiscard]] bool judges() const { return !pairs_.empty(); }
    /// NaN where nothing is held out.
    [[nodiscard]] double error(const Tensor& parameters) const {
        if (pairs_.empty()) return undefined;
        const InfluenceNetwork network(shape_, parameters, plain_);
        const auto rows = examples_.rows.index_select(0, places(split_.held_rows));
        Tensor found;
        if (shape_.pairs)
            found = network.scores(network.left(rows),
                                   network.right(examples_.columns.index_select(0, places(split_.held_columns))));
        else
            found = network.of_samples(rows);
        auto wanted = examples_.labels.index_select(0, places(split_.held_rows));
        if (shape_.pairs) wanted = wanted.index_select(1, places(split_.held_columns));
        auto squares = (found - wanted).to(torch::kFloat64).square_();
        if (shape_.pairs) {  // all but what a sample says of itself
            auto counts = at::zeros_like(squares);
            auto* marks = counts.mutable_data_ptr<double>();
            const auto width = std::ssize(split_.held_columns);
            for (const auto& pair : pairs_) marks[place(pair, width)] = 1.0;
            squares.mul_(counts);
        }
        return unit_ * squares.sum().item<double>() / real(std::ssize(pairs_) * shape_.outputs);
    }

private:
    [[nodiscard]] std::int64_t place(const Pair& pair, std::int64_t width) const {
        const auto at = [](const std::vector<std::int64_t>& all, std::int64_t one) {
            return std::lower_bound(all.begin(), all.end(), one) - all.begin();
        };
        return at(split_.held_rows, pair.row) * width + at(split_.held_columns, pair.column);
    }

    NetworkShape shape_;
    std::vector<Pair> pairs_;
    const Examples& examples_;
    NetworkScaling plain_;
    const Split& split_;
    double unit_;
};

/// Rows of one fit's epochs in the state.
class Kept {
public:
    Kept(const work::Work& work, const std::string& stage, std::int64_t first, std::int64_t parameters)
        : work_(work), stage_(stage), first_(first), count_(parameters) {}

    [[nodiscard]] bool has(std::int64_t epoch) const {
        return work_.state.recovered(stage_)[static_cast<std::size_t>(first_ + epoch)] != 0;
    }
    [[nodiscard]] std::vector<float> read(const char* column, std::int64_t epoch, std::int64_t width) const {
        std::vector<float> values(static_cast<std::size_t>(width));
        work_.state.read(stage_, column, {first_ + epoch, 1}, values);
        return values;
    }
    [[nodiscard]] std::vector<float> parameters(std::int64_t epoch) const {
        return read(parameters_column, epoch, count_);
    }
    void restore(Training& training, std::int64_t epoch, std::int64_t steps) const {
        training.restore(steps, parameters(epoch), read(first_column, epoch, count_),
                         read(second_column, epoch, count_));
    }
    void write(const Training& training, std::int64_t epoch, const std::array<float, 2>& errors) const {
        const std::array<std::span<const float>, 4> columns{work::values(training.parameters()),
                                                            work::values(training.first_moment()),
                                                            work::values(training.second_moment()), errors};
        work_.state.write_unit(stage_, first_ + epoch, columns);
    }
    [[nodiscard]] std::array<float, 2> errors(std::int64_t epoch) const {
        const auto values = read(error_column, epoch, 2);
        return {values[0], values[1]};
    }

private:
    const work::Work& work_;
    const std::string& stage_;
    std::int64_t first_, count_;
};

}  // namespace

Tensor cosines(const Tensor& rows, const Tensor& columns) {
    const auto unit = [](const Tensor& e) {
        return e / e.norm(2, {1}, true).clamp_min(std::numeric_limits<float>::min());
    };
    return at::mm(unit(rows), unit(columns).t());
}

CosineLine nearest_line(const Tensor& cosine, const Tensor& labels, const std::vector<Pair>& pairs) {
    const auto cosine_values = cosine.contiguous(), label_values = labels.contiguous();
    const auto width = cosine.size(1);
    const auto value = [width](const Tensor& of) {
        return [values = of.const_data_ptr<float>(), width](const Pair& p) {
            return static_cast<double>(values[p.row * width + p.column]);
        };
    };
    const auto x = spread_of(pairs, value(cosine_values)), y = spread_of(pairs, value(label_values));
    if (!(x.deviation > 0.0)) return {y.mean, 0.0};
    double products = 0.0;
    for (const auto& pair : pairs)
        products += (value(cosine_values)(pair) - x.mean) * (value(label_values)(pair) - y.mean);
    const double slope = products / (x.deviation * x.deviation * static_cast<double>(pairs.size()));
    return {y.mean - slope * x.mean, slope};
}

plan::Stage learning_stage(const std::string& name, const std::string& title, const NetworkShape& shape,
                           const NetworkSettings& settings, std::int64_t samples, std::int64_t pairs,
                           std::int64_t fits) {
    const auto count = shape.parameters();
    return {.name = name,
            .title = title,
            .columns = {{parameters_column, count}, {first_column, count}, {second_column, count}, {error_column, 2}},
            .units = {{{0, samples}, shape.learning_flops() * real(pairs * passes_of(pairs))}},
            .keeps = plan::Keeps::repeats,
            .repeats = settings.epochs * fits,
            .at_most = true};
}

double learning_bytes(const NetworkShape& shape, std::int64_t rows, std::int64_t columns, std::int64_t pairs) {
    const auto of_labels = shape.pairs ? columns * (shape.residual ? 2 : 1) : shape.outputs;
    // Scaled embeddings, and once more while they are looked at; labels and cosines, twice; parameters with gradient
    // and moments, and on their way to the state.
    return sizeof(float) * (2.0 * real((rows + columns) * shape.embedding) + 2.0 * real(rows * of_labels) +
                            6.0 * real(shape.parameters())) +
           sizeof(Pair) * real(pairs);
}

namespace {

/// Of what is learnt from all, or as many at random as the settings say.
std::vector<Pair> pairs_to_learn(const Problem& problem, const NetworkSettings& settings, std::uint64_t seed) {
    auto pairs = pairs_of(problem.split.rows,
                          problem.shape.pairs ? problem.split.columns : std::vector<std::int64_t>{0}, problem.labelled);
    if (settings.pairs && problem.shape.pairs && *settings.pairs < std::ssize(pairs)) {
        shuffle(pairs, seed, -1);
        pairs.resize(static_cast<std::size_t>(*settings.pairs));
    }
    return pairs;
}

/// Throws Error(bad_input) for one that is not finite; that of held-out pairs only counts where there are any.
void check_errors(const std::string& stage, std::int64_t epoch, const std::array<float, 2>& errors, bool judged) {
    if (std::isfinite(errors[0]) && (!judged || std::isfinite(errors[1]))) return;
    throw Error(ExitCode::bad_input,
                {stage, "error of epoch " + std::to_string(epoch + 1), "a finite number",
                 fmt::format("{} learnt, {} held out", errors[0], errors[1]),
                 "Look at the labels and embeddings of the labelled samples: some are too large."});
}

}  // namespace

Learnt learn(const work::Work& work, const std::string& stage, std::int64_t fit, const Problem& problem,
             const NetworkSettings& settings, std::uint64_t seed) {
    auto pairs = pairs_to_learn(problem, settings, seed);
    const auto made = scaled(problem, settings, pairs);
    const HeldOut held(problem, made);
    const LearningSettings learning;
    Training training(problem.shape, seed, learning);
    const Kept kept(work, stage, fit * settings.epochs, problem.shape.parameters());
    const auto passes = passes_of(std::ssize(pairs), learning);
    const auto steps = passes * ((std::ssize(pairs) + learning.batch - 1) / learning.batch);
    const auto& planned = work.plan.stage(stage);
    const auto recovered = work.state.recovered(stage).subspan(static_cast<std::size_t>(fit * settings.epochs),
                                                               static_cast<std::size_t>(settings.epochs));
    const auto progress = work::progress_of(planned, recovered);
    const double pair_cost = planned.units.front().flops / real(passes * std::ssize(pairs));

    Learnt learnt{.parameters = {}, .scaling = made.scaling, .error = {}, .held_error = {}, .pairs = std::ssize(pairs)};
    double best = std::numeric_limits<double>::infinity();
    bool stale = false;  // the training is not at the end of the epoch before
    for (std::int64_t epoch = 0; epoch < settings.epochs; ++epoch) {
        std::array<float, 2> errors{};
        if (kept.has(epoch)) {
            for (std::int64_t pass = 0; pass < passes; ++pass) shuffle(pairs, seed, epoch * passes + pass);
            errors = kept.errors(epoch);
            stale = true;
        } else {
            if (stale) kept.restore(training, epoch - 1, epoch * steps);
            stale = false;
            double squares = 0.0;  // of the last pass
            const auto at_once = static_cast<std::size_t>(learning.batch * batches_at_once);
            for (std::int64_t pass = 0; pass < passes; ++pass) {
                shuffle(pairs, seed, epoch * passes + pass);
                squares = 0.0;
                for (std::size_t first = 0; first < pairs.size(); first += at_once) {
                    const auto part = std::span(pairs).subspan(first, std::min(at_once, pairs.size() - first));
                    squares += training.learn(made.examples, part);
                    progress->add({.cost = pair_cost * static_cast<double>(part.size())});
                }
            }
            const double error = made.unit * squares / real(std::ssize(pairs) * problem.shape.outputs);
            errors = {static_cast<float>(error), static_cast<float>(held.error(training.parameters()))};
            kept.write(training, epoch, errors);
        }
        learnt.error.push_back(errors[0]);
        learnt.held_error.push_back(errors[1]);
        const bool judged = held.judges();
        check_errors(stage, epoch, errors, judged);
        progress->name(fmt::format("train, error {:.3f}", errors[judged ? 1 : 0]));
        // Without pairs to judge by the last epoch counts.
        if (!judged || errors[1] < best) {
            best = judged ? errors[1] : best;
            learnt.epoch = epoch + 1;
        }
        if (epoch + 1 - learnt.epoch >= patience) break;
    }
    const auto parameters = kept.parameters(learnt.epoch - 1);
    learnt.parameters = at::tensor(at::ArrayRef<float>(parameters), at::TensorOptions().dtype(torch::kFloat32));
    return learnt;
}

}  // namespace idistill::propagation
