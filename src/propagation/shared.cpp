#include "shared.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "idistill/base/error.hpp"
#include "idistill/comm/say.hpp"

namespace idistill::propagation {
namespace {

using torch::Tensor;

// Below these the ranking within the pool is mostly noise: at a leave-one-out R2 of 0.3 about half of the true top 10 %
// are found (measured on 400 samples of a real pool).
constexpr double low_r2 = 0.3;
constexpr double low_within_source = 0.1;
constexpr double high_label_noise = 0.1;

std::size_t longest(const std::vector<std::string>& texts, std::size_t least = 0) {
    for (const auto& text : texts) least = std::max(least, text.size());
    return least;
}

}  // namespace

Tensor usable_landmarks(comm::Communicator& comm, const Landmarks& landmarks, const std::string& embedding) {
    const auto finite = [](const Tensor& rows) { return at::isfinite(rows).all(1); };
    const auto labelled = finite(landmarks.labels.products);
    auto place = labelled.logical_and(finite(landmarks.features)).nonzero().view({-1});
    const auto without = labelled.sum().item<std::int64_t>() - place.numel();
    if (place.numel() == 0 && without > 0)
        throw Error(ExitCode::bad_input,
                    {"--embedding " + embedding, "embeddings of the landmarks", "at least one that is finite",
                     fmt::format("none of {}", landmarks.count()),
                     "Write the file from a pool whose samples have labels, or use another --embedding."});
    if (without > 0)
        say(comm, fmt::format("warning: {} of {} landmarks left out: their --embedding is not finite, and neither "
                              "may be that of other samples, which then get no influence",
                              without, landmarks.count()));
    if (place.numel() == 0)
        throw Error(ExitCode::bad_input, {"landmarks", "exact influence", "at least one that is finite and not zero",
                                          fmt::format("none of {}", landmarks.count()),
                                          "Check the model's weights and --parameters, or give more --landmarks."});
    return place;
}

Tensor fitted_labels(const influence::Rows& labels, const Tensor& place, const influence::Layout& layout) {
    auto products = labels.products.index_select(0, place);
    if (!labels.logarithmic.defined()) return products;
    const auto logarithmic = labels.logarithmic.index_select(0, place);
    if (layout.per_unit) products = products / logarithmic.narrow(1, 0, 1);
    return at::cat({products, logarithmic.log()}, 1);
}

influence::Rows from_fitted(const Tensor& fitted, const influence::Layout& layout) {
    const auto logarithms = layout.logarithms();
    const auto products = fitted.size(1) - logarithms;
    influence::Rows rows{{}, fitted.narrow(1, 0, products)};
    if (logarithms == 0) return rows;
    rows.logarithmic = fitted.narrow(1, products, logarithms).exp();
    if (layout.per_unit) rows.products = rows.products * rows.logarithmic.narrow(1, 0, 1);
    return rows;
}

std::string trust_report(const Trust& trust, const std::vector<std::string>& tasks, const std::string& judged,
                         bool several) {
    const auto width = longest(tasks, 4);
    auto text = fmt::format("  {:<{}}  {:>7} {:>14} {:>9} {:>14} | source name alone: {:>5} {:>9}\n", "task", width,
                            "R2", "R2 in source", "Spearman", "label noise", "R2", "Spearman");
    std::vector<std::string> equal, low, no_gain, blind, noisy;
    for (std::size_t task = 0; task < tasks.size(); ++task) {
        const auto& name = tasks[task];
        text += fmt::format("  {:<{}}  {:>7.3f} {:>14.3f} {:>9.3f} {:>14.3f} | {:>24.3f} {:>9.3f}\n", name, width,
                            trust.task_r2[task], trust.task_r2_within_source[task], trust.task_spearman[task],
                            trust.task_label_noise[task], trust.task_r2_source_only[task],
                            trust.task_spearman_source_only[task]);
        if (several && std::isnan(trust.task_r2[task])) {
            equal.push_back(name);
            continue;
        }
        if (trust.task_label_noise[task] > high_label_noise) noisy.push_back(name);
        if (!(trust.task_r2[task] >= low_r2)) low.push_back(name);
        if (trust.task_r2[task] <= trust.task_r2_source_only[task]) no_gain.push_back(name);
        if (trust.task_r2_within_source[task] < low_within_source) blind.push_back(name);
    }
    const auto say_of = [&text](const std::vector<std::string>& names, const std::string& before,
                                const std::string& behind) {
        if (!names.empty()) text += fmt::format("{} {}{}\n", before, fmt::join(names, ", "), behind);
    };
    say_of(equal, "warning: all influences of the landmarks on",
           " are equal, to within rounding: there is nothing to predict, hence no R2.");
    say_of(noisy, fmt::format("warning: over {:.0f} % of what the labels of", 100 * high_label_noise),
           " vary by is noise of the sketch (R2 can reach 1 less the label noise): give a larger --sketch-dim.");
    say_of(
        low, fmt::format("warning: {} R2 is below {} for", judged, low_r2),
        ": the propagated ranking is mostly noise there. Use more --landmarks, another --embedding, or --propagation "
        "none for exact influence.");
    say_of(
        no_gain, "warning: for",
        " the embedding predicts no better than the source's name alone: more --landmarks or another --embedding are "
        "worth their cost only if that changes.");
    say_of(blind, fmt::format("note: R2 within source is below {} for", low_within_source),
           ": the propagation tells good sources from bad ones, but hardly good samples from bad ones within a source. "
           "--propagation none does.");
    text.pop_back();
    return text;
}

}  // namespace idistill::propagation
