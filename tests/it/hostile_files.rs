//! What others wrote, with the worst of intentions: an error that names it, soon, and neither a panic nor all memory.
//! The fuzz targets (docs/fuzzing.md) look for more of it.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, DictionaryArray, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::DataType;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::Compression;
use parquet::file::metadata::{
    PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader, ParquetMetaDataWriter, RowGroupMetaData,
};
use parquet::file::page_index::offset_index::PageLocation;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::TrackedWrite;
use sepo::io::bounds::{Bound, Compare, Value};
use sepo::io::{Dataset, Stores};
use sepo::model::{CausalLm, DeviceSpec, ModelSource};
use sepo::pipeline::Spec;
use sepo::text::Tokenizer;
use serde_json::json;

use crate::harness::{Folder, repository};

fn parse(text: &str) -> String {
    Spec::parse(text, "x.yaml", &[]).unwrap_err().to_string()
}

#[test]
fn yaml_that_grows_or_nests_without_end_is_refused() {
    let aliases: String = (1..10).map(|n| format!("a{n}: &a{n} [{}]\n", format!("*a{}, ", n - 1).repeat(10))).collect();
    parse(&format!("a0: &a0 [x]\n{aliases}"));
    parse(&"[".repeat(100_000));
    parse(&"- ".repeat(100_000));
    parse(&"a: {".repeat(100_000));
    let variables: String =
        (1..12).map(|n| format!("  v{n}: \"{}\"\n", format!("${{v{}}}", n - 1).repeat(10))).collect();
    let error = parse(&format!("vars:\n  v0: xxxxxxxxxx\n{variables}workdir: ${{v11}}\nstages: {{}}\n"));
    assert!(error.contains("x.yaml:7:3: variables stand for more than 1048576 bytes of text"), "{error}");
    let error = parse(&format!("workdir: x\nstages: {{}}\n{}: 1\n", "k".repeat(1000)));
    assert!(error.contains("help: one of"), "{error}");
}

fn open(path: &Path) -> sepo::Result<Dataset> {
    Dataset::open(&[path.display().to_string()], &Stores::default())
}

#[test]
fn rows_without_end_are_refused() {
    let folder = Folder::new();
    let endless = |start: &str| {
        let zeros = std::io::Read::chain(start.as_bytes(), std::io::Read::take(std::io::repeat(b' '), 300 << 20));
        zstd::encode_all(zeros, 1).unwrap()
    };
    for (name, start) in [("x.jsonl.zst", "{\"a\": "), ("x.json.zst", "[{\"a\": ")] {
        let path = folder.path(name);
        std::fs::write(&path, endless(start)).unwrap();
        let error = open(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("{name}, row 1: a row of more than 268435456 bytes")), "{error}");
    }
    let error = open(&folder.write("deep.jsonl", &"{\"a\": [".repeat(10_000))).unwrap_err().to_string();
    let expected = ["deep.jsonl, row 1, column `a.a.a.", "not JSON: nested more than 128 deep"];
    assert!(expected.iter().all(|part| error.contains(part)), "{error}");
}

/// A folder with the config.json of a small model, changed by `change`, and `weights`.
fn load(change: impl FnOnce(&mut serde_json::Value), weights: &[u8]) -> String {
    let folder = Folder::new();
    let source = repository().join("tests/fixtures/llama-tied");
    let mut config = serde_json::from_slice(&std::fs::read(source.join("config.json")).unwrap()).unwrap();
    change(&mut config);
    folder.write("config.json", &config.to_string());
    std::fs::write(folder.path("model.safetensors"), weights).unwrap();
    let source = ModelSource::folder("x", folder.path("."));
    CausalLm::load(&source, &DeviceSpec::Cpu.open().unwrap()).unwrap_err().to_string()
}

fn safetensors(header: &serde_json::Value) -> Vec<u8> {
    let header = header.to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 64]].concat()
}

#[test]
fn weights_that_claim_what_is_not_there_are_refused() {
    let claims = [
        Vec::new(),
        vec![255; 8],
        u64::MAX.to_le_bytes().to_vec(),
        safetensors(&json!({"x": {"dtype": "F32", "shape": [1_u64 << 33, 1_u64 << 33], "data_offsets": [0, 0]}})),
        safetensors(&json!({"x": {"dtype": "U8", "shape": [u64::MAX], "data_offsets": [0, u64::MAX]}})),
        safetensors(&json!({"x": {"dtype": "F32", "shape": [16], "data_offsets": [64, 0]}})),
        safetensors(&json!({"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 64]}})),
        safetensors(&json!({"x": {"dtype": "F32", "shape": [32], "data_offsets": [0, 128]}})),
    ];
    for claim in claims {
        let error = load(|_| {}, &claim);
        assert!(error.contains("model.safetensors: "), "{error}");
    }
}

#[test]
fn sizes_that_no_model_has_are_refused() {
    let weights = std::fs::read(repository().join("tests/fixtures/llama-tied/model.safetensors")).unwrap();
    for name in ["num_hidden_layers", "hidden_size", "vocab_size", "num_attention_heads", "head_dim"] {
        let error = load(|config| config[name] = json!(u64::MAX), &weights);
        assert!(error.contains(&format!("config.json: {name} 18446744073709551615 is above 1048576")), "{error}");
        let error = load(|config| config[name] = json!(0), &weights);
        assert!(error.contains(&format!("config.json: {name} is 0")), "{error}");
    }
}

#[test]
fn token_ids_have_31_bits() {
    let folder = Folder::new();
    let model = json!({"type": "WordLevel", "vocab": {"a": 0, "b": u32::MAX}, "unk_token": "a"});
    folder.write("tokenizer.json", &json!({"version": "1.0", "model": model}).to_string());
    let error = Tokenizer::load(&folder.path(".")).unwrap_err().to_string();
    assert!(error.contains("`b` has the id 4294967295, and ids have 31 bits"), "{error}");
}

/// A Parquet file of three rows, whose footer says what `change` makes of its only row group.
fn lie(folder: &Folder, change: impl FnOnce(RowGroupMetaData) -> RowGroupMetaData) -> sepo::Result<Dataset> {
    let column = Arc::new(Int64Array::from(vec![1, 2, 3]));
    let batch = RecordBatch::try_from_iter([("x", column as _)]).unwrap();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let footer = ParquetMetaDataReader::new().parse_and_finish(&bytes::Bytes::from(bytes.clone())).unwrap();
    let length = u32::from_le_bytes(*bytes[..bytes.len() - 4].last_chunk().unwrap()) as usize;
    bytes.truncate(bytes.len() - 8 - length);
    let groups = vec![change(footer.row_group(0).clone())];
    let footer = ParquetMetaData::new(footer.file_metadata().clone(), groups);
    ParquetMetaDataWriter::new(&mut bytes, &footer).finish().unwrap();
    let path = folder.path("x.parquet");
    std::fs::write(&path, bytes).unwrap();
    open(&path)
}

fn rows(group: RowGroupMetaData, rows: i64) -> RowGroupMetaData {
    group.into_builder().set_num_rows(rows).build().unwrap()
}

#[test]
fn parquet_footers_that_cannot_be_true_are_refused() {
    let folder = Folder::new();
    assert_eq!(lie(&folder, |group| group).unwrap().rows(), 3);
    let error = lie(&folder, |group| rows(group, -1)).unwrap_err().to_string();
    assert!(error.contains("x.parquet: row group 0 would have -1 rows"), "{error}");
    let moved = |offset: i64, size: i64| {
        let column = |group: &RowGroupMetaData| {
            let column = group.column(0).clone().into_builder().set_dictionary_page_offset(None);
            column.set_data_page_offset(offset).set_total_compressed_size(size).build().unwrap()
        };
        let change = |group: RowGroupMetaData| {
            let columns = vec![column(&group)];
            group.into_builder().set_column_metadata(columns).build().unwrap()
        };
        lie(&folder, change).unwrap_err().to_string()
    };
    for (offset, size) in [(-4, 10), (4, -10), (i64::MAX, i64::MAX), (4, 1 << 40)] {
        let error = moved(offset, size);
        assert!(error.contains("column `x` of row group 0 would lie outside of the file"), "{error}");
    }
}

/// A row group that holds fewer or more rows than its footer says ends in an error, not in other rows.
#[test]
fn rows_that_a_footer_invents_are_missed() {
    let folder = Folder::new();
    for claimed in [2, 4, i64::MAX] {
        let dataset = lie(&folder, |group| rows(group, claimed)).unwrap();
        let units = dataset.units();
        let error = dataset.read(&units[0], 2).unwrap().find_map(Result::err).map(|error| error.to_string());
        assert!(error.is_some_and(|error| error.contains("x.parquet, row group 0: ")), "{claimed}");
    }
}

/// The format has no bound; the reader has one of 2^15.
#[test]
fn a_file_has_as_many_row_groups_as_it_likes() {
    let folder = Folder::new();
    let column = Arc::new(Int64Array::from(vec![1, 2, 3]));
    let batch = RecordBatch::try_from_iter([("x", column as _)]).unwrap();
    let metadata = [("key".to_owned(), "value".to_owned())].into();
    let schema = batch.schema().as_ref().clone().with_metadata(metadata);
    let batch = batch.with_schema(Arc::new(schema)).unwrap();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let footer = ParquetMetaDataReader::new().parse_and_finish(&bytes::Bytes::from(bytes.clone())).unwrap();
    let path = folder.path("x.parquet");
    for count in [32_768, 32_769, 70_000] {
        // All of them at the same place.
        let footer = footer.clone().into_builder().set_row_groups(vec![footer.row_group(0).clone(); count]).build();
        let mut file = TrackedWrite::new(std::fs::File::create(&path).unwrap());
        file.write_all(&bytes).unwrap();
        ParquetMetaDataWriter::new_with_tracked(file, &footer).finish().unwrap();
        let mut dataset = open(&path).unwrap();
        assert_eq!((dataset.rows(), dataset.schema().metadata()["key"].as_str()), (3 * count as u64, "value"));
        let last = dataset.units().pop().unwrap();
        let bound = Bound { column: "x".to_owned(), compare: Compare::Less, value: Value::Integer(3) };
        dataset.prune(&[bound]).unwrap();
        let rows = dataset.read(&last, 1000).unwrap().map(|chunk| chunk.unwrap().batch.num_rows());
        assert_eq!(rows.sum::<usize>() as u64, last.rows);
    }
}

type Change<'a> = &'a dyn Fn(&mut Vec<PageLocation>);

/// A page index decides which bytes are read and which rows they are.
#[test]
fn page_indexes_that_cannot_be_true_are_refused() {
    let folder = Folder::new();
    let column = Arc::new(Int64Array::from_iter_values(0..300));
    let batch = RecordBatch::try_from_iter([("x", column as _)]).unwrap();
    let properties = WriterProperties::builder().set_data_page_row_count_limit(100).set_write_batch_size(100).build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Required);
    let footer = reader.parse_and_finish(&bytes::Bytes::from(bytes.clone())).unwrap();
    let prune = |change: Change| {
        let mut offsets = footer.offset_index().unwrap().clone();
        change(&mut offsets[0][0].page_locations);
        let footer = footer.clone().into_builder().set_offset_index(Some(offsets)).build();
        let path = folder.path("x.parquet");
        let mut file = TrackedWrite::new(std::fs::File::create(&path).unwrap());
        file.write_all(&bytes).unwrap();
        ParquetMetaDataWriter::new_with_tracked(file, &footer).finish().unwrap();
        let mut dataset = open(&path).unwrap();
        let bound = Bound { column: "x".to_owned(), compare: Compare::Less, value: Value::Integer(50) };
        dataset.prune(&[bound])?;
        let chunks = dataset.units().into_iter().flat_map(|unit| dataset.read(&unit, 1000).unwrap());
        chunks.map(|chunk| chunk.map(|chunk| chunk.batch.num_rows())).sum::<sepo::Result<usize>>()
    };
    assert_eq!(prune(&|_| {}).unwrap(), 100);
    let lies: [Change; 6] = [
        &|pages| pages[1].first_row_index = 1 << 40,
        &|pages| pages[1].first_row_index = -1,
        &|pages| pages[0].first_row_index = 1,
        &|pages| pages[1].offset = -4,
        &|pages| pages[1].compressed_page_size = i32::MAX,
        &|pages| pages.truncate(1),
    ];
    for lie in lies {
        let error = prune(lie).unwrap_err().to_string();
        assert!(error.contains("x.parquet: the page index of column `x` of row group 0 cannot be true"), "{error}");
    }
}

/// A schema of three columns, whose root says that it has more children, in three ways.
#[test]
fn schemas_with_children_that_are_not_there_are_refused() {
    let folder = Folder::new();
    let column = |name: &str| (name.to_owned(), Arc::new(Int64Array::from(vec![1])) as _);
    let batch = RecordBatch::try_from_iter(["x", "y", "z"].map(column)).unwrap();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    // The root: its name, then field 5, an i32, 3 in zigzag.
    let root = b"arrow_schema\x15\x06";
    let at = bytes.windows(root.len()).position(|window| window == root).unwrap() + root.len() - 1;
    let claim = |children: &[u8]| {
        let mut bytes = bytes.clone();
        bytes.splice(at..=at, children.iter().copied());
        let end = bytes.len() - 8;
        let length = u32::from_le_bytes(*bytes[end..].first_chunk().unwrap()) + children.len() as u32 - 1;
        bytes[end..end + 4].copy_from_slice(&length.to_le_bytes());
        let path = folder.path("x.parquet");
        std::fs::write(&path, bytes).unwrap();
        open(&path).map(|dataset| dataset.rows()).map_err(|error| error.to_string())
    };
    assert_eq!(claim(&[6]), Ok(1));
    let billion: &[u8] = &[0x80, 0xa8, 0xd6, 0xb9, 0x07];
    // A number of ten bytes, as a fuzzer found it, and one below zero.
    let long: &[u8] = &[0xfd, 0xff, 0xea, 0xfb, 0xda, 0xfd, 0xe7, 0xf8, 0xe5, 0x01];
    for (children, count) in [(billion, "1000000000"), (long, ""), (&[1][..], "4294967295")] {
        let error = claim(children).unwrap_err();
        let wanted = format!("x.parquet: an element of the schema would have {count}");
        assert!(error.contains(&wanted) && error.contains(" children; there are 4 elements"), "{error}");
    }
}

/// A dictionary of one text whose page's header says that it holds two billion.
#[test]
fn dictionaries_that_cannot_hold_their_values_are_refused() {
    let folder = Folder::new();
    let column = Arc::new(StringArray::from(vec!["text"; 3])) as _;
    let batch = RecordBatch::try_from_iter([("x", column)]).unwrap();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let path = folder.path("x.parquet");
    std::fs::write(&path, &bytes).unwrap();
    let read = |path: &Path| {
        let dataset = open(path).unwrap();
        let chunks = dataset.units().iter().flat_map(|unit| dataset.read(unit, 10).unwrap()).collect::<Vec<_>>();
        chunks.into_iter().map(|chunk| chunk.map(|chunk| chunk.batch.num_rows())).collect::<Result<Vec<_>, _>>()
    };
    assert_eq!(read(&path).unwrap(), [3]);
    // Kind 2, 8 bytes unpacked and packed, no checksum, a dictionary of 1 value.
    let header = [0x15, 4, 0x15, 16, 0x15, 16, 0x4c, 0x15, 2];
    let at = bytes.windows(header.len()).position(|window| window == header).unwrap() + header.len() - 1;
    // More bytes would move all that follows: 63 values is the most that one takes, in 8 bytes.
    bytes[at] = 126;
    std::fs::write(&path, &bytes).unwrap();
    let error = read(&path).unwrap_err().to_string();
    assert!(error.contains("x.parquet, row group 0") && error.contains("63 values in 8 bytes"), "{error}");
}

/// A footer whose schema is `depth` structs in one another, as thrift's compact protocol writes it.
fn nested(depth: usize) -> Vec<u8> {
    fn number(mut value: usize, into: &mut Vec<u8>) {
        while value > 0x7f {
            into.push(value as u8 | 0x80);
            value >>= 7;
        }
        into.push(value as u8);
    }
    // An optional element of the name `g`: with one child, or an integer.
    let group = [0x35, 2, 0x18, 1, b'g', 0x15, 2, 0];
    let leaf = [0x15, 2, 0x25, 2, 0x18, 1, b'g', 0];
    let mut footer = vec![0x15, 2, 0x19, 0xfc];
    number(depth + 2, &mut footer);
    (0..=depth).for_each(|_| footer.extend(group));
    footer.extend(leaf);
    // No rows, no row groups.
    footer.extend([0x16, 0, 0x19, 0x0c, 0]);
    [b"PAR1", &footer[..], &(footer.len() as u32).to_le_bytes(), b"PAR1"].concat()
}

#[test]
fn schemas_nested_without_end_are_refused() {
    let folder = Folder::new();
    let path = folder.path("x.parquet");
    std::fs::write(&path, nested(50)).unwrap();
    assert_eq!(open(&path).unwrap().rows(), 0);
    for (depth, wanted) in
        [(100, "column `g` is nested more than 64 deep"), (1_000_000, "its schema is nested more than 200 deep")]
    {
        std::fs::write(&path, nested(depth)).unwrap();
        let error = folder.fails(&["inspect", "x.parquet"], 1);
        assert!(error.contains(&format!("x.parquet: {wanted}")), "{error}");
    }
}

/// A row of a dictionary takes two bytes, whatever it stands for.
#[cfg(unix)]
#[test]
fn rows_that_share_a_long_text_have_a_bound() {
    let folder = Folder::new();
    let values = Arc::new(StringArray::from(vec!["x".repeat(20_000_000)]));
    let column = DictionaryArray::new(Int32Array::from(vec![0; 200]), values);
    let batch = RecordBatch::try_from_iter([("x", Arc::new(column) as ArrayRef)]).unwrap();
    let properties = WriterProperties::builder().set_dictionary_page_size_limit(1 << 30);
    let properties = properties.set_compression(Compression::SNAPPY).build();
    let mut bytes = Vec::new();
    let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
    let mut writer = ArrowWriter::try_new_with_options(&mut bytes, batch.schema(), options).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let path = folder.path("x.parquet");
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(*open(&path).unwrap().schema().field(0).data_type(), DataType::Utf8);
    let error = folder.fails_within(3_000_000, &["inspect", "x.parquet"]);
    assert!(error.contains("x.parquet, row 53: column `x`: its rows take more than 1073741824 bytes"), "{error}");
}

#[test]
fn a_file_has_ten_thousand_columns_at_most() {
    let folder = Folder::new();
    let write = |count: usize| {
        let columns = (0..count).map(|column| (format!("c{column}"), Arc::new(Int64Array::from(vec![1])) as ArrayRef));
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let path = folder.path("x.parquet");
        let mut writer = ArrowWriter::try_new(std::fs::File::create(&path).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        open(&path).map(|dataset| dataset.schema().fields().len())
    };
    assert_eq!(write(10_000).unwrap(), 10_000);
    let error = write(10_001).unwrap_err().to_string();
    assert!(error.contains("x.parquet: more than 10000 columns, fields of structs included"), "{error}");
}

/// The reader makes room for as many bytes as a page's header says that it has.
#[test]
fn pages_of_gigabytes_are_refused() {
    let folder = Folder::new();
    let batch = RecordBatch::try_from_iter([("x", Arc::new(Int64Array::from(vec![1, 2, 3])) as ArrayRef)]).unwrap();
    let properties = WriterProperties::builder().set_dictionary_enabled(false).build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    // A page of kind 0 and 24 bytes; then, of 2^31 - 1.
    assert_eq!(bytes[4..8], [0x15, 0, 0x15, 48]);
    bytes.splice(7..8, [0xfe, 0xff, 0xff, 0xff, 0x0f]);
    let path = folder.path("x.parquet");
    std::fs::write(&path, bytes).unwrap();
    let error = folder.fails(&["inspect", "x.parquet"], 1);
    assert!(error.contains("x.parquet, row group 0: ") && error.contains("a page of 2147483647 bytes"), "{error}");
}

/// The reader makes room for all values of a dictionary, too.
#[test]
fn dictionaries_that_cannot_be_are_refused() {
    let folder = Folder::new();
    let batch = RecordBatch::try_from_iter([("x", Arc::new(Int64Array::from(vec![1, 2, 1])) as ArrayRef)]).unwrap();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    // A page of kind 2 and 16 bytes, a dictionary of 2 values.
    assert_eq!(bytes[4..13], [0x15, 4, 0x15, 32, 0x15, 32, 0x4c, 0x15, 4]);
    let lies: [(_, &[u8], _); 2] = [
        (12..13, &[10], "a dictionary would hold 5 values in 16 bytes"),
        // 2^29 bytes.
        (7..8, &[0x80, 0x80, 0x80, 0x80, 0x04], "a page of 536870912 bytes in a column"),
    ];
    for (place, lie, wanted) in lies {
        let mut lying = bytes.clone();
        lying.splice(place, lie.iter().copied());
        std::fs::write(folder.path("x.parquet"), lying).unwrap();
        let error = folder.fails(&["inspect", "x.parquet"], 1);
        assert!(error.contains("x.parquet, row group 0: ") && error.contains(wanted), "{error}");
    }
}
