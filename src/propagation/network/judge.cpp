#include "judge.hpp"

#include <ATen/ATen.h>

#include <cmath>
#include <limits>
#include <map>

#include "learning.hpp"

namespace idistill::propagation {
namespace {

using Numbers = std::vector<double>;

constexpr double undefined = std::numeric_limits<double>::quiet_NaN();

/// Mean of numbers that come one after the other; NaN of none.
struct Mean {
    double sum = 0.0, count = 0.0;
    void add(double value) {
        sum += value;
        count += 1.0;
    }
    [[nodiscard]] double value() const { return count > 0.0 ? sum / count : undefined; }
};

class Labels {
public:
    explicit Labels(const Judged& judged) : judged_(judged), labels_(judged.labels.contiguous()) {}

    [[nodiscard]] double operator()(std::int64_t row, std::int64_t column) const {
        return static_cast<double>(labels_.const_data_ptr<float>()[row * labels_.size(1) + column]);
    }
    [[nodiscard]] bool is_self(std::int64_t row, std::int64_t column) const {
        return judged_.labelled[static_cast<std::size_t>(column)] == row;
    }
    /// Mean of labels of these rows on these columns, none of a sample on itself.
    [[nodiscard]] double mean(const std::vector<std::int64_t>& rows, const std::vector<std::int64_t>& columns,
                              std::int64_t but_column = -1) const {
        Mean mean;
        for (const auto row : rows)
            for (const auto column : columns)
                if (column != but_column && !is_self(row, column)) mean.add((*this)(row, column));
        return mean.value();
    }

private:
    const Judged& judged_;
    at::Tensor labels_;
};

/// Mean over a task's columns, without those that are the sample itself.
Numbers task_means(const std::vector<std::int32_t>& of_column, std::int32_t tasks, auto value, auto leave_out) {
    std::vector<Mean> means(static_cast<std::size_t>(tasks));
    for (std::size_t column = 0; column < of_column.size(); ++column)
        if (const auto place = static_cast<std::int64_t>(column); !leave_out(place))
            means[static_cast<std::size_t>(of_column[column])].add(value(place));
    Numbers values;
    for (const auto& mean : means) values.push_back(mean.value());
    return values;
}

/// Less the mean of its source.
Numbers within(const Numbers& values, const std::vector<std::int32_t>& source) {
    std::map<std::int32_t, Mean> means;
    for (std::size_t i = 0; i < values.size(); ++i) means[source[i]].add(values[i]);
    Numbers rest;
    for (std::size_t i = 0; i < values.size(); ++i) rest.push_back(values[i] - means[source[i]].value());
    return rest;
}

}  // namespace

Agreement agreement(const Judged& judged) {
    const Labels label(judged);
    const auto& split = judged.split;
    const auto predicted = judged.predicted.contiguous();
    const auto width = predicted.size(1);
    const double constant = label.mean(split.rows, split.columns);
    at::Tensor cosine;
    CosineLine line;
    if (judged.columns.defined()) {
        cosine = cosines(judged.rows, judged.columns).contiguous();
        line = nearest_line(cosine, judged.labels, pairs_of(split.rows, split.columns, judged.labelled));
    }
    std::map<std::int64_t, double> target_mean;
    for (const auto column : split.held_columns) target_mean[column] = label.mean(split.rows, {column});
    Numbers truth;
    std::array<Numbers, predictors.size()> found;
    for (std::size_t place = 0; place < split.held_rows.size(); ++place) {
        const auto row = split.held_rows[place];
        for (const auto column : split.held_columns) {
            if (label.is_self(row, column)) continue;
            truth.push_back(label(row, column));
            found[0].push_back(static_cast<double>(
                predicted.const_data_ptr<float>()[static_cast<std::int64_t>(place) * width + column]));
            found[1].push_back(constant);
            found[2].push_back(
                cosine.defined() ? line.offset + line.slope * static_cast<double>(
                                                                  cosine.const_data_ptr<float>()[row * width + column])
                                 : undefined);
            found[3].push_back(label.mean({row}, split.columns, column));
            found[4].push_back(target_mean[column]);
        }
    }
    Agreement made{.error = {}, .r2 = {}, .spearman = {}, .pairs = std::ssize(truth)};
    for (const auto& values : found) {
        Mean squares;
        for (std::size_t i = 0; i < truth.size(); ++i) squares.add((values[i] - truth[i]) * (values[i] - truth[i]));
        made.error.push_back(squares.value());
        made.r2.push_back(r_squared(truth, values));
        made.spearman.push_back(spearman(truth, values));
    }
    return made;
}

namespace {

/// The figures of one more task, of held-out samples (n each): `alone` is what the source's name predicts.
void add_task(Trust& trust, const Numbers& truth, const Numbers& found, const Numbers& alone,
              const std::vector<std::int32_t>& source) {
    trust.task_r2.push_back(r_squared(truth, found));
    trust.task_spearman.push_back(spearman(truth, found));
    trust.task_r2_source_only.push_back(r_squared(truth, alone));
    trust.task_spearman_source_only.push_back(spearman(truth, alone));
    trust.task_r2_within_source.push_back(r_squared(within(truth, source), within(found, source)));
    Mean squares, mean;
    for (const double value : truth) mean.add(value);
    for (const double value : truth) squares.add((value - mean.value()) * (value - mean.value()));
    trust.task_label_variance.push_back(squares.value());
}

}  // namespace

Trust held_out_trust(const Judged& judged, const std::vector<std::int32_t>& of_column, std::int32_t tasks,
                     const std::vector<std::int32_t>& source) {
    const Labels label(judged);
    const auto& held = judged.split.held_rows;
    const auto predicted = judged.predicted.contiguous();
    const auto width = std::ssize(of_column);
    const auto prediction = [&](std::size_t place, std::int64_t column) {
        return static_cast<double>(
            predicted.const_data_ptr<float>()[static_cast<std::int64_t>(place) * predicted.size(1) + column]);
    };
    Trust trust;
    for (std::int64_t column = 0; column < width; ++column) {
        Numbers truth, found;
        for (std::size_t place = 0; place < held.size(); ++place) {
            if (label.is_self(held[place], column)) continue;
            truth.push_back(label(held[place], column));
            found.push_back(prediction(place, column));
        }
        trust.column_r2.push_back(r_squared(truth, found));
    }
    const auto true_means = [&](std::int64_t row) {
        return task_means(
            of_column, tasks, [&](std::int64_t column) { return label(row, column); },
            [&](std::int64_t column) { return label.is_self(row, column); });
    };
    const auto source_of = [&](std::int64_t row) { return source[static_cast<std::size_t>(row)]; };
    std::vector<Mean> whole(static_cast<std::size_t>(tasks));
    std::map<std::int32_t, std::vector<Mean>> by_source;
    for (const auto row : judged.split.rows) {
        auto& own = by_source.try_emplace(source_of(row), whole.size()).first->second;
        const auto means = true_means(row);
        for (std::size_t task = 0; task < means.size(); ++task) {
            own[task].add(means[task]);
            whole[task].add(means[task]);
        }
    }
    std::vector<std::int32_t> held_source;
    std::vector<Numbers> truth(whole.size()), found(whole.size()), alone(whole.size());
    for (std::size_t place = 0; place < held.size(); ++place) {
        const auto row = held[place];
        const auto own = true_means(row),
                   predictions = task_means(
                       of_column, tasks, [&](std::int64_t column) { return prediction(place, column); },
                       [&](std::int64_t column) { return label.is_self(row, column); });
        held_source.push_back(source_of(row));
        const auto known = by_source.find(source_of(row));
        for (std::size_t task = 0; task < own.size(); ++task) {
            truth[task].push_back(own[task]);
            found[task].push_back(predictions[task]);
            alone[task].push_back((known == by_source.end() ? whole : known->second)[task].value());
        }
    }
    for (std::size_t task = 0; task < truth.size(); ++task)
        add_task(trust, truth[task], found[task], alone[task], held_source);
    return trust;
}

}  // namespace idistill::propagation
