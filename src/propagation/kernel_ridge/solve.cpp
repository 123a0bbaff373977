#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <utility>

#include "idistill/base/error.hpp"
#include "idistill/model/cuda.hpp"
#include "idistill/propagation/kernel_ridge.hpp"
#include "left_out_pairs.hpp"

namespace idistill::propagation {
namespace {

using torch::Tensor;

constexpr double undefined = std::numeric_limits<double>::quiet_NaN();
constexpr std::int64_t median_landmarks = 1000;
constexpr double smallest_bandwidth = 1e-6;

// --- kernels, fp64 ---------------------------------------------------------------------------------------------------

/// (n x n), exactly symmetric, diagonal exactly 0.
Tensor squared_distances(const Tensor& points) {
    auto centred = points.to(torch::kCPU, torch::kFloat64, false, true);
    centred.sub_(centred.mean(0, true));
    auto products = centred.matmul(centred.t());
    products = (products + products.t()) / 2.0;
    const auto norms = products.diagonal().clone();
    return products.mul_(-2.0).add_(norms.unsqueeze(0) + norms.unsqueeze(1)).clamp_min_(0.0);
}

double middle_value(const Tensor& values) {
    const auto sorted = std::get<0>(values.sort());
    const std::int64_t count = sorted.size(0);
    return (sorted[(count - 1) / 2].item<double>() + sorted[count / 2].item<double>()) / 2.0;
}

double median_bandwidth(const Tensor& squared) {
    const std::int64_t count = std::min(median_landmarks, squared.size(0));
    const auto pairs = torch::triu_indices(count, count, 1);
    const auto distances = squared.index({pairs[0], pairs[1]}).sqrt();
    if (distances.size(0) == 0) return smallest_bandwidth;
    const double all = middle_value(distances);
    if (all > smallest_bandwidth) return all;
    const auto different = distances.masked_select(distances > smallest_bandwidth);
    return different.size(0) == 0 ? smallest_bandwidth : middle_value(different);
}

Tensor rbf(const Tensor& squared, double bandwidth) { return squared.div(-2.0 * bandwidth * bandwidth).exp_(); }

/// The embeddings that stand side by side in `rows`.
std::vector<Tensor> split(const Tensor& rows, const std::vector<std::int64_t>& widths) {
    return widths.empty() ? std::vector<Tensor>{rows} : rows.split_with_sizes(widths, 1);
}

/// K_LL, as far as it does not depend on the bandwidths of the embeddings.
struct LandmarkKernels {
    std::vector<Tensor> squared;  ///< (L x L) distances of every embedding
    Tensor metadata;              ///< (L x L) sum of the two metadata kernels; undefined without metadata

    [[nodiscard]] Tensor at(const std::vector<double>& bandwidths, bool product) const {
        auto kernel = product ? torch::zeros_like(squared[0]) : rbf(squared[0], bandwidths[0]);
        for (std::size_t i = 0; product && i < squared.size(); ++i)
            kernel.add_(squared[i], -0.5 / (bandwidths[i] * bandwidths[i]));
        if (product) kernel.exp_();
        for (std::size_t i = 1; !product && i < squared.size(); ++i) kernel.add_(rbf(squared[i], bandwidths[i]));
        if (metadata.defined()) kernel.add_(metadata);
        const std::size_t kernels = (product ? 1 : squared.size()) + (metadata.defined() ? 2 : 0);
        return kernel.div_(static_cast<double>(kernels));
    }
};

/// Leaves the bandwidth of the lengths in `solution`.
LandmarkKernels landmark_kernels(Solution& solution) {
    LandmarkKernels kernels;
    for (const auto& embedding : split(solution.landmarks.embedding, solution.kernel.widths))
        kernels.squared.push_back(squared_distances(embedding));
    if (!solution.kernel.metadata) return kernels;
    const auto& source = solution.landmarks.source;
    const auto squared = squared_distances(solution.landmarks.log_lengths);
    solution.length_bandwidth = median_bandwidth(squared);
    kernels.metadata = rbf(squared, solution.length_bandwidth);
    kernels.metadata += source.unsqueeze(0).eq(source.unsqueeze(1)).to(torch::kFloat64);
    return kernels;
}

/// Bandwidths of all embeddings, ascending.
std::vector<std::vector<double>> bandwidths_to_try(const KernelSettings& settings, const std::vector<Tensor>& squared) {
    if (settings.bandwidth) return {std::vector<double>(squared.size(), *settings.bandwidth)};
    std::vector<double> medians;
    for (const auto& distances : squared) medians.push_back(median_bandwidth(distances));
    if (!settings.choose_bandwidth) return {medians};
    std::vector<std::vector<double>> grid;
    for (const double multiple : {0.25, 0.5, 1.0, 2.0, 4.0}) {
        auto& bandwidths = grid.emplace_back(medians);
        for (double& bandwidth : bandwidths) bandwidth = std::max(smallest_bandwidth, multiple * bandwidth);
    }
    return grid;
}

/// What the kernel is chosen from, in the order of SolveResult::kernels.
std::vector<KernelTrial> kernel_grid(const KernelSettings& settings, const std::vector<Tensor>& squared) {
    const bool choose = settings.choose_product && squared.size() > 1;
    std::vector<KernelTrial> grid;
    for (const bool product : {true, false}) {
        if (!choose && product != settings.product) continue;
        for (auto& bandwidths : bandwidths_to_try(settings, squared)) grid.push_back({bandwidths, product, {}});
    }
    return grid;
}

// --- fit and leave-one-out -------------------------------------------------------------------------------------------

/// B = (K + damping I)^-1, as far as a fit of labels Y needs it.
struct Inverse {
    Tensor applied;   ///< B Y (L x C)
    Tensor diagonal;  ///< (L)
    Tensor ones;      ///< B 1 (L)
};

struct Fit {
    Tensor coefficients;   ///< (L x C)
    Tensor intercept;      ///< (C)
    Tensor leave_one_out;  ///< (L x C)
};

/// Diagonal of C = B - B11'B / (1'B1).
Tensor diagonal_with_intercept(const Inverse& inverse) {
    return inverse.diagonal - inverse.ones.square() / inverse.ones.sum();
}

/// Coefficients B Y, or C Y with C = B - B11'B / (1'B1); the prediction of a row left out is y - (C y) / C_ll.
Fit fit(const Inverse& inverse, const Tensor& labels, bool with_intercept) {
    if (!with_intercept) {
        return {inverse.applied, torch::zeros({labels.size(1)}, torch::kFloat64),
                labels - inverse.applied / inverse.diagonal.unsqueeze(1)};
    }
    if (labels.size(0) == 1) return {torch::zeros_like(labels), labels[0], torch::full_like(labels, undefined)};
    const auto total = inverse.ones.sum();
    const auto intercept = inverse.ones.matmul(labels) / total;
    const auto coefficients = inverse.applied - inverse.ones.unsqueeze(1) * intercept.unsqueeze(0);
    return {coefficients, intercept, labels - coefficients / diagonal_with_intercept(inverse).unsqueeze(1)};
}

/// Eigenvalues and eigenvectors of K_LL: every damping costs two thin products.
class Spectrum {
public:
    Spectrum(const Tensor& kernel, torch::Device device) {
        model::cuda::give_back_unused();  // cuSOLVER's memory is beside PyTorch's
        const auto [values, vectors] = torch::linalg_eigh(kernel.to(device));
        values_ = values.cpu().clamp_min(0.0);
        vectors_ = vectors.cpu();
        squares_ = vectors_.square();
        ones_ = vectors_.sum(0);
    }

    [[nodiscard]] Tensor rotate(const Tensor& labels) const { return vectors_.t().matmul(labels); }

    /// `rotated` = rotate(labels)
    [[nodiscard]] Inverse inverse(double damping, const Tensor& rotated) const {
        const auto weights = (values_ + damping).reciprocal();
        return {vectors_.matmul(weights.unsqueeze(1) * rotated), squares_.matmul(weights),
                vectors_.matmul(weights * ones_)};
    }

    /// (K + damping I)^-1 at these rows and columns.
    [[nodiscard]] Tensor inverse_between(double damping, const Tensor& rows, const Tensor& columns) const {
        const auto weighted = vectors_.index_select(0, rows).div_(values_ + damping);
        return weighted.matmul(vectors_.index_select(0, columns).t());
    }

private:
    Tensor values_;
    Tensor vectors_;
    Tensor squares_;
    Tensor ones_;
};

/// The same for K = [same source], in closed form: on a source with n landmarks B = (I - J / (n + damping)) / damping.
Inverse source_inverse(const Tensor& source, double damping, const Tensor& labels) {
    const auto group = std::get<1>(torch::_unique(source, true, true));
    const auto sizes = torch::bincount(group).to(torch::kFloat64).index_select(0, group);
    const auto sums = torch::zeros_like(labels).index_add_(0, group, labels).index_select(0, group);
    const auto shrunk = (sizes + damping).reciprocal();
    return {(labels - sums * shrunk.unsqueeze(1)) / damping, (1.0 - shrunk) / damping, shrunk};
}

// --- choice of damping and intercept ---------------------------------------------------------------------------------

std::vector<double> column(const Tensor& values, std::int64_t index) {
    const auto contiguous = values.select(1, index).contiguous();
    return {contiguous.const_data_ptr<double>(), contiguous.const_data_ptr<double>() + contiguous.numel()};
}

/// Mean over the columns that vary of 1 - R2; NaN when none does.
double relative_error(const Tensor& truth, const Tensor& prediction) {
    double sum = 0.0;
    int columns = 0;
    for (std::int64_t i = 0; i < truth.size(1); ++i) {
        const double r2 = r_squared(column(truth, i), column(prediction, i));
        if (std::isnan(r2)) continue;
        sum += 1.0 - r2;
        ++columns;
    }
    return columns == 0 ? undefined : sum / columns;
}

std::vector<double> damping_grid() {
    std::vector<double> grid;
    for (int step = 0; step <= 24; ++step) grid.push_back(std::pow(10.0, -4.0 + step / 4.0));
    return grid;
}

/// Leave-one-out error of the task means at every damping, with and without intercept.
std::vector<DampingTrial> compare(const std::vector<double>& dampings, const Tensor& task_labels,
                                  const std::function<Inverse(double)>& inverse_at) {
    std::vector<DampingTrial> trials;
    for (const double damping : dampings) {
        const auto inverse = inverse_at(damping);
        for (const bool intercept : {false, true}) {
            const auto predicted = fit(inverse, task_labels, intercept).leave_one_out;
            trials.push_back({damping, intercept, relative_error(task_labels, predicted)});
        }
    }
    return trials;
}

/// Later trials (larger damping, then with intercept) win ties; the last one wins when no task varies.
DampingTrial best_of(const std::vector<DampingTrial>& trials) {
    DampingTrial best = trials.back();
    for (auto trial = trials.rbegin(); trial != trials.rend(); ++trial) {
        if (trial->error < best.error * (1.0 - 1e-9)) best = *trial;
    }
    return best;
}

/// The best kernel, decomposed.
struct ChosenKernel {
    Spectrum spectrum;
    KernelTrial trial;
    std::vector<DampingTrial> trials;
};

/// Chooses kernel, damping and intercept by the leave-one-out error of the task means; from the last of the grid, so
/// that one before must be better. All that was compared goes to `compared`.
ChosenKernel choose_kernel(LandmarkKernels kernels, std::vector<KernelTrial> grid, torch::Device device,
                           const std::vector<double>& dampings, const Tensor& task_labels,
                           std::vector<KernelTrial>& compared) {
    std::optional<ChosenKernel> chosen;
    for (; !grid.empty(); grid.pop_back()) {
        auto trial = grid.back();
        auto kernel = kernels.at(trial.bandwidths, trial.product);
        if (grid.size() == 1) kernels = {};  // the decomposition needs the room
        Spectrum spectrum(kernel, device);
        const auto rotated = spectrum.rotate(task_labels);
        auto trials = compare(dampings, task_labels, [&](double value) { return spectrum.inverse(value, rotated); });
        trial.best = best_of(trials);
        compared.insert(compared.begin(), trial);
        if (!chosen || trial.best.error < chosen->trial.best.error * (1.0 - 1e-9))
            chosen = ChosenKernel{std::move(spectrum), trial, std::move(trials)};
    }
    return std::move(*chosen);
}

// --- trust -----------------------------------------------------------------------------------------------------------

/// (L x tasks): mean over each task's columns, added in column order (equal rows give equal means); NaN for a task
/// without columns.
Tensor task_means(const Tensor& values, const std::vector<std::int32_t>& column_task, std::int32_t tasks) {
    const auto task = torch::tensor(column_task, torch::kInt64);
    const auto sums =
        torch::zeros({values.size(0), tasks}, torch::kFloat64).index_add_(1, task, values.narrow(1, 0, task.numel()));
    return sums / torch::bincount(task, {}, tasks);
}

/// (tasks) NaN without sources, and where leaving out two landmarks leaves nothing to fit. `inverse`: of the chosen
/// damping; `coefficients` (L x tasks): of the task means.
std::vector<double> within_source(const Spectrum& spectrum, const DampingTrial& chosen, const Inverse& inverse,
                                  const Tensor& task_labels, const Tensor& coefficients, const Tensor& source) {
    if (!source.defined() || (chosen.intercept && source.size(0) <= 2))
        return std::vector<double>(static_cast<std::size_t>(task_labels.size(1)), undefined);
    const auto between = [&](const Tensor& rows, const Tensor& columns) {
        auto values = spectrum.inverse_between(chosen.damping, rows, columns);
        const auto ones = [&](const Tensor& at) { return inverse.ones.index_select(0, at); };
        if (chosen.intercept) values.addr_(ones(rows), ones(columns), 1.0, -1.0 / inverse.ones.sum().item<double>());
        return values;
    };
    const auto diagonal = chosen.intercept ? diagonal_with_intercept(inverse) : inverse.diagonal;
    return r_squared_of_left_out_pairs({task_labels, coefficients, diagonal, between}, source);
}

/// All but R2 within source.
Trust measure_trust(const Tensor& labels, const Tensor& predicted, const Tensor& task_labels,
                    const Tensor& task_predicted, const Tensor& source) {
    Trust trust;
    for (std::int64_t i = 0; i < labels.size(1); ++i) {
        trust.column_r2.push_back(r_squared(column(labels, i), column(predicted, i)));
    }
    Tensor by_source;
    if (source.defined()) {
        const auto inverse_at = [&](double damping) { return source_inverse(source, damping, task_labels); };
        const auto best = best_of(compare(damping_grid(), task_labels, inverse_at));
        by_source = fit(inverse_at(best.damping), task_labels, best.intercept).leave_one_out;
    }
    for (std::int64_t task = 0; task < task_labels.size(1); ++task) {
        const auto truth = column(task_labels, task);
        const auto prediction = column(task_predicted, task);
        trust.task_r2.push_back(r_squared(truth, prediction));
        trust.task_label_variance.push_back(task_labels.select(1, task).var(0, false).item<double>());
        trust.task_spearman.push_back(spearman(truth, prediction));
        const auto alone = source.defined() ? column(by_source, task) : std::vector<double>(truth.size(), undefined);
        trust.task_r2_source_only.push_back(r_squared(truth, alone));
        trust.task_spearman_source_only.push_back(spearman(truth, alone));
    }
    return trust;
}

void check(const Features& landmarks, const Tensor& labels, const KernelSettings& kernel,
           std::optional<double> damping) {
    const auto positive = [](const std::string& option, std::optional<double> value) {
        if (value && !(*value > 0.0 && std::isfinite(*value))) {
            throw Error(ExitCode::usage, {"propagation", option, "a positive number", std::to_string(*value), ""});
        }
    };
    positive("--damping", damping);
    positive("--bandwidth", kernel.bandwidth);
    const auto finite = [](const std::string& what, const Tensor& values) {
        if (!values.defined() || values.isfinite().all().item<bool>()) return;
        const auto row = values.isfinite().logical_not().any(1).nonzero()[0].item<std::int64_t>();
        throw Error(ExitCode::bad_input,
                    {"propagation", what, "finite numbers", "landmark " + std::to_string(row) + " without",
                     "Such samples must be quarantined before landmarks are drawn."});
    };
    finite("embedding", landmarks.embedding);
    finite("log lengths", landmarks.log_lengths);
    finite("labels", labels);
}

}  // namespace

bool is_chosen(const KernelTrial& trial, const Solution& solution) {
    return trial.bandwidths == solution.embedding_bandwidths && trial.product == solution.kernel.product;
}

SolveResult solve(const Features& landmarks, const torch::Tensor& labels, const std::vector<std::int32_t>& column_task,
                  std::int32_t tasks, const KernelSettings& kernel, std::optional<double> damping) {
    check(landmarks, labels, kernel, damping);
    SolveResult result;
    Solution& solution = result.solution;
    solution.kernel = kernel;
    solution.kernel.metadata = kernel.metadata && landmarks.source.defined() && landmarks.log_lengths.defined();
    solution.landmarks.embedding = landmarks.embedding.to(torch::kCPU, torch::kFloat32).contiguous();
    Tensor source;
    if (landmarks.source.defined()) source = landmarks.source.to(torch::kCPU, torch::kInt64).contiguous();
    if (solution.kernel.metadata) {
        solution.landmarks.source = source;
        solution.landmarks.log_lengths = landmarks.log_lengths.to(torch::kCPU, torch::kFloat32).contiguous();
    }

    const auto exact = labels.to(torch::kCPU, torch::kFloat64);
    const auto task_labels = task_means(exact, column_task, tasks);
    auto kernels = landmark_kernels(solution);
    auto grid = kernel_grid(kernel, kernels.squared);
    auto chosen = choose_kernel(std::move(kernels), std::move(grid), kernel.device,
                                damping ? std::vector<double>{*damping} : damping_grid(), task_labels, result.kernels);
    result.trials = std::move(chosen.trials);
    const auto& spectrum = chosen.spectrum;
    const auto& best = chosen.trial.best;
    solution.embedding_bandwidths = chosen.trial.bandwidths;
    solution.kernel.product = chosen.trial.product;
    solution.damping = best.damping;
    solution.has_intercept = best.intercept;

    const auto columns = static_cast<std::int64_t>(column_task.size());
    const auto inverse = spectrum.inverse(best.damping, spectrum.rotate(exact));
    const auto fit_columns = [&](std::int64_t first, std::int64_t count, bool intercept) {
        return fit({inverse.applied.narrow(1, first, count), inverse.diagonal, inverse.ones},
                   exact.narrow(1, first, count), intercept);
    };
    const auto influence = fit_columns(0, columns, best.intercept);
    const auto further = fit_columns(columns, exact.size(1) - columns, true);
    solution.coefficients = torch::cat({influence.coefficients, further.coefficients}, 1);
    solution.intercept = torch::cat({influence.intercept, further.intercept});
    result.leave_one_out = torch::cat({influence.leave_one_out, further.leave_one_out}, 1);
    result.trust = measure_trust(exact.narrow(1, 0, columns), influence.leave_one_out, task_labels,
                                 task_means(influence.leave_one_out, column_task, tasks), source);
    result.trust.task_r2_within_source = within_source(spectrum, best, inverse, task_labels,
                                                       task_means(influence.coefficients, column_task, tasks), source);
    return result;
}

}  // namespace idistill::propagation
